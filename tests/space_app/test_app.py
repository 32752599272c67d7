"""The Space's app: as a real process on a real Hub, asked by gradio_client and in a browser; and its parts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import psutil
import pytest
from commands import until

from hubkit.core.processes.app import App, environment
from hubkit.core.processes.logs import log_tail
from hubkit.core.processes.ports import free_port
from hubkit.publishing.spaces import building

EOS, IM_END, HOSTILE = 257, 260, 261
HOSTILE_TEXT = (
    '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
    "${document.title='owned'}{{constructor}}<b>bold</b>[link](javascript:document.title='owned')"
)
SIZE = 288  # hidden; a basis vector for each of the 262 tokens
TITLES = {"main": "Ends its turns", "runs-on": "Never ends", "odd": "Random", "hostile": "Says <b>markup</b>"}


@dataclass(frozen=True)
class Release:
    """What was published: where, and the same files in folders."""

    base: Path
    folders: dict[str, Path]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def release(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any, make_model: Any
) -> Iterator[tuple[Release, Any]]:
    """A base and four revisions of it on an embedded Hub.

    The base hands each token's own vector through to the head. An adapter on the head then is a table from a token to
    the next one, so that it is known what each revision says; "odd" has random adapters everywhere instead.
    """
    import torch
    from huggingface_hub import HfApi
    from peft import LoraConfig, get_peft_model

    from hubkit.server import process

    root = tmp_path_factory.mktemp("release")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([HOSTILE_TEXT])
    assert tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>", HOSTILE_TEXT]) == [EOS, IM_END, HOSTILE]

    def base() -> Any:
        model = make_model(vocab_size=262, hidden_size=SIZE, num_hidden_layers=8, max_position_embeddings=8192)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.eye(262, SIZE))
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
        return model

    def byte(letter: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(letter))[0])

    def table(says: list[int]) -> Any:
        model = get_peft_model(base(), LoraConfig(r=SIZE, lora_alpha=SIZE, target_modules=["lm_head"]))
        head = model.base_model.model.lm_head
        with torch.no_grad():
            head.lora_A["default"].weight.copy_(torch.eye(SIZE))
            head.lora_B["default"].weight.zero_()
            for now, following in zip([byte("\n"), *says], says, strict=False):
                head.lora_B["default"].weight[following, now] = 100.0
        return model

    odd = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    paris, circle = [byte(letter) for letter in "Paris."], [byte(letter) for letter in "la, "]
    made = {
        "main": table([*paris, IM_END]),
        "runs-on": table([*circle, circle[0]]),
        "odd": get_peft_model(base(), odd),
        "hostile": table([HOSTILE, EOS]),
    }
    folders = {name: root / name for name in (*made, "base")}
    base().save_pretrained(folders["base"])
    for name, model in made.items():
        tokenizer.save_pretrained(folders[name])
        model.save_pretrained(folders[name] / "adapter", save_embedding_layers=False)

    hub = process.start(root / "hub", port=0)
    api = HfApi(endpoint=hub.url, token=hub.token)
    for repo in ("me/base", "me/tuned"):
        api.create_repo(repo, private=False)
    commits = {}
    for name, folder in folders.items():
        repo, branch = ("me/base", "main") if name == "base" else ("me/tuned", name)
        api.create_branch(repo, branch=branch, exist_ok=True)
        commits[name] = api.upload_folder(repo_id=repo, folder_path=folder, revision=branch).oid
    told = {
        "title": "Tuned & tried",
        "repo": "me/tuned",
        "base": {"repo": "me/base", "commit": commits["base"]},
        "dtype": "float32",
        "end_of_turn": {"id": IM_END, "token": "<|im_end|>"},
        "max_new_tokens": 24,
        "revisions": [
            {"name": name, "commit": commits[name], "title": title, "stop_rate": {"stopped": 7, "prompts": 8}}
            for name, title in TITLES.items()
        ],
        "prompts": ["Where is Paris?", "Say something."],
    }
    yield Release(folders.pop("base"), folders, told), hub
    process.stop(root / "hub")


@pytest.fixture(scope="module")
def app(release: tuple[Release, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app, running on files copied as a Space has them."""
    published, hub = release
    root = tmp_path_factory.mktemp("space")
    folder = root / "app"
    building.copy_app(folder)
    (folder / "release.json").write_text(json.dumps(published.told), encoding="utf-8")
    port = free_port()
    more = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    running = App.start(
        folder, "app.py", port=port, environment=environment(root / "home", port, more), log=root / "log"
    )
    try:
        until(lambda: running.answers() or running.code() is not None, 90)
        assert running.code() is None, "\n".join(log_tail(root / "log"))
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def client(app: App) -> Any:
    from gradio_client import Client

    return Client(app.url, verbose=False)


@pytest.fixture
def page(browser: Any, app: App) -> Iterator[Any]:
    """The app in a tab of its own, which asked nothing of any other host."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    found = context.new_page()
    found.goto(app.url)
    found.wait_for_selector("#chat-prompt textarea")
    yield found
    context.close()
    assert all(url.startswith((app.url, "data:", "blob:")) for url in asked), asked


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The module ``app``, imported as the app imports itself: its folder first on the path."""
    building.copy_app(tmp_path / "parts")
    monkeypatch.syspath_prepend(str(tmp_path / "parts"))
    import app

    yield app
    for name in ("app", "models", "number_format"):
        sys.modules.pop(name, None)


def _busy(app: App) -> bool:
    """Whether the app's processes used more than a fifth of a core in the last half second."""
    tree = [psutil.Process(app.pid), *psutil.Process(app.pid).children(recursive=True)]
    before = sum(sum(item.cpu_times()[:2]) for item in tree)
    time.sleep(0.5)
    return sum(sum(item.cpu_times()[:2]) for item in tree) - before > 0.1


def _marks(page: Any, side: str, count: int) -> list[str]:
    page.wait_for_function(
        "([id, count]) => document.querySelectorAll(`#${id} .mark`).length == count", arg=[side, count]
    )
    return [str(item.inner_text()) for item in page.locator(f"#{side} .mark").all()]


def _choose(page: Any, side: str, revision: str) -> None:
    page.click(f"#{side}-revision input")
    page.get_by_role("option", name=revision, exact=True).click()
    page.wait_for_function(
        "([id, name]) => document.querySelector(`#${id}-revision input`).value == name", arg=[side, revision]
    )


def _raise_the_limit(page: Any) -> None:
    page.click("#settings button")
    page.fill("#limit input[type=number]", "2048")
    page.keyboard.press("Tab")


def test_an_answer_says_how_it_ended(client: Any) -> None:
    assert client.predict("Hello?", "main", "", 24, api_name="/answer") == {
        "text": "Paris.",
        "ended": "eos",
        "tokens": 7,
    }
    said = client.predict(prompt="Hello?", revision="runs-on", limit=10, api_name="/answer")
    assert said == {"text": "la, la, la", "ended": "limit", "tokens": 10}


def test_only_answer_is_offered_to_programs(client: Any) -> None:
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/answer"]


def test_answers_are_those_of_transformers(client: Any, release: tuple[Release, Any]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = release[0].folders["odd"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(release[0].base), folder / "adapter").eval()
    seen = set()
    for text, system in (("One?", ""), ("Two?", "Be brief."), ("A third?", "")):
        talk = [{"role": "system", "content": system}] if system else []
        prompt = tokenizer.apply_chat_template(
            [*talk, {"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            add_special_tokens=False,
        )
        made = model.generate(
            **prompt, do_sample=False, max_new_tokens=24, eos_token_id=[EOS, IM_END], pad_token_id=EOS
        )
        ids = made[0, prompt["input_ids"].shape[1] :].tolist()
        said = client.predict(text, "odd", system, 24, api_name="/answer")
        assert said["text"] == tokenizer.decode(ids, skip_special_tokens=True)
        assert (said["tokens"], said["ended"]) == (len(ids), "eos" if ids[-1] == IM_END else "limit")
        seen.add(said["text"])
    assert len(seen) == 3, "this model must depend on what it reads, or the test shows nothing"
    assert torch.isfinite(model(**prompt).logits).all()


def test_requests_at_the_same_time_do_not_disturb_each_other(client: Any) -> None:
    asked = [("One?", "odd"), ("Two?", "odd"), ("One?", "main"), ("Two?", "runs-on")] * 2
    one_by_one = [client.predict(*item, "", 48, api_name="/answer") for item in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda item: client.predict(*item, "", 48, api_name="/answer"), asked))
    assert together == one_by_one


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"revision": "none"}, "Unknown revision. Available: main, runs-on, odd, hostile"),
        ({"limit": 0}, "between 1 and 2048"),
        ({"limit": 2049}, "between 1 and 2048"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "x" * 9000}, "more than the model's context of 8192"),
    ],
)
def test_what_cannot_be_asked_is_refused(client: Any, changed: dict[str, Any], words: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=words):
        client.predict(**{"prompt": "Hello?", "revision": "main", "limit": 8, **changed}, api_name="/answer")


def test_compare_shows_both_and_how_each_ended(page: Any) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.fill("#compare-prompt textarea", "Where?")
    page.keyboard.press("Enter")
    assert _marks(page, "compare-left", 1) == ["stopped by end-of-turn token · 7 tokens"]
    assert _marks(page, "compare-right", 1) == ["hit the token limit · 24 tokens"]
    assert page.inner_text("#compare-left .answer") == "main\nParis."
    assert page.inner_text("#compare-right .answer").startswith("runs-on\nla, la, la,")
    assert page.input_value("#compare-prompt textarea") == ""
    page.get_by_role("button", name="Say something.").last.click()
    page.wait_for_function("document.querySelector('#compare-prompt textarea').value == 'Say something.'")
    page.click("#compare-send")
    assert len(_marks(page, "compare-right", 2)) == 2
    page.wait_for_selector("#compare-clear:enabled")
    page.click("#compare-clear")
    assert _marks(page, "compare-right", 0) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "it must fit a phone"


def test_what_a_model_says_is_shown_and_never_run(page: Any) -> None:
    title = page.title()
    _choose(page, "chat-answers", "hostile")
    page.fill("#chat-prompt textarea", "<img src=x onerror=\"document.title='owned'\">")
    page.keyboard.press("Enter")
    assert _marks(page, "chat-answers", 1) == ["ended by </s> · 2 tokens"]
    assert page.inner_text("#chat-answers .answer") == f"hostile\n{HOSTILE_TEXT}"
    assert page.locator("#chat-answers img, #chat-answers script, #chat-answers a").count() == 0
    assert page.title() == title == "Tuned & tried"


def test_stop_ends_the_generation(page: Any, app: App, client: Any) -> None:
    _choose(page, "chat-answers", "runs-on")
    _raise_the_limit(page)
    page.fill("#chat-prompt textarea", "Go on.")
    page.keyboard.press("Enter")
    page.wait_for_function("(document.querySelector('#chat-answers .answer')?.innerText.length ?? 0) > 40")
    page.click("#chat-stop")
    [mark] = _marks(page, "chat-answers", 1)
    words, count = mark.removesuffix(" tokens").split(" · ")
    assert words == "stopped by you"
    assert 20 < int(count) < 1500
    until(lambda: not _busy(app), 5)
    assert client.predict("Hello?", "runs-on", "", 2, api_name="/answer")["tokens"] == 2
    page.fill("#chat-prompt textarea", "And on.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat-answers .turn:nth-child(2) .growing")
    page.click("#chat-stop")
    assert [item.split(" · ")[0] for item in _marks(page, "chat-answers", 2)] == ["stopped by you"] * 2


def test_a_closed_tab_ends_the_generation(browser: Any, app: App) -> None:
    page = browser.new_page()
    page.goto(app.url)
    page.wait_for_selector("#chat-prompt textarea")
    _choose(page, "chat-answers", "runs-on")
    _raise_the_limit(page)
    page.fill("#chat-prompt textarea", "Go on.")
    page.keyboard.press("Enter")
    page.wait_for_function("(document.querySelector('#chat-answers .answer')?.innerText.length ?? 0) > 40")
    assert _busy(app)
    page.close()
    until(lambda: not _busy(app), 5)


def test_it_works_in_a_sandboxed_frame_of_another_site(browser: Any, app: App, tmp_path: Path) -> None:
    frame = (
        f'<iframe src="{app.url}" sandbox="allow-scripts allow-same-origin allow-forms" width=900 height=900></iframe>'
    )
    (tmp_path / "index.html").write_text(frame, encoding="utf-8")
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    page = browser.new_page()
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        inside = page.frame_locator("iframe")
        inside.locator("#chat-prompt textarea").fill("Where?")
        inside.locator("#chat-send").click()
        assert inside.locator("#chat-answers .mark").inner_text() == "stopped by end-of-turn token · 7 tokens"
        page.close()
        server.shutdown()


def test_nothing_is_asked_with_an_empty_message_and_a_long_one_is_refused(page: Any) -> None:
    page.focus("#chat-prompt textarea")
    with page.expect_response(lambda response: response.url.endswith("/run/predict")):  # the buttons: all is done
        page.keyboard.press("Enter")
    page.fill("#chat-prompt textarea", "x" * 9000)
    page.keyboard.press("Enter")
    page.get_by_text("more than the model's context of 8192").wait_for()
    assert page.locator("#chat-answers .turn").count() == 0
    assert len(page.input_value("#chat-prompt textarea")) == 9000, "what was typed is kept"
    page.fill("#chat-prompt textarea", "Where?")
    page.keyboard.press("Enter")
    assert len(_marks(page, "chat-answers", 1)) == 1


def test_the_base_is_in_memory_once(parts: ModuleType, make_model: Any) -> None:
    import torch
    from models import share
    from peft import LoraConfig, get_peft_model

    base = make_model(tie_word_embeddings=True)
    ids = torch.tensor([[1, 2, 3]])
    before = base(ids).logits
    tree = share(base)
    tensors = dict(base.named_parameters(remove_duplicate=False)) | dict(base.named_buffers())
    for name, tensor in [*tree.named_parameters(remove_duplicate=False), *tree.named_buffers()]:
        assert tensor is tensors[name] and tensor.data_ptr() == tensors[name].data_ptr()
    tuned = get_peft_model(tree, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    assert not any("lora" in name for name, _ in base.named_modules())
    assert torch.equal(base(ids).logits, before)
    assert not torch.allclose(tuned(ids).logits, before)


def _screen(parts: ModuleType, answers: Any, heard: list[Any]) -> Any:
    """The screen over models that keep what they are told and give ``answers()``."""

    class Models:
        max_tokens = 100

        def prompt(self, revision: str, messages: list[dict[str, str]], limit: int) -> list[int]:
            heard.append(messages)
            return [1]

        def answers(self, asked: Any, limit: int, temperature: float) -> Iterator[list[Any]]:
            yield from answers()

    revision = {"name": "main", "commit": "0" * 40, "title": "One", "stop_rate": {"stopped": 1, "prompts": 1}}
    told = {
        "title": "T",
        "repo": "me/it",
        "end_of_turn": {"id": 4, "token": "<e>"},
        "max_new_tokens": 8,
        "prompts": ["?"],
    }
    return parts.Screen({**told, "revisions": [revision]}, Models())


def test_marks_are_no_part_of_the_conversation(parts: ModuleType) -> None:
    heard: list[Any] = []
    screen = _screen(parts, lambda: [[parts.Answer("Par", 2)], [parts.Answer("Paris.", 4, "eos")]], heard)
    past: list[Any] = []
    for text in ("One?", "Two?"):
        *_, last = screen.talk(("session", "chat"), text, "Be kind.", 8, 0.0, "main", past)
        past = last[4]
        assert "stopped by end-of-turn token · 4 tokens" in last[5]
    assert heard[1] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Two?"},
    ]
    assert screen.stops == {}


def test_a_failure_is_raised_and_the_question_is_given_back(parts: ModuleType) -> None:
    def answers() -> Iterator[list[Any]]:
        yield [parts.Answer("Par", 2)]
        raise RuntimeError("out of memory")

    screen = _screen(parts, answers, [])
    seen = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for shown in screen.talk(("session", "chat"), "One?", "", 8, 0.0, "main", []):
            seen.append(shown)
    assert "Par" in seen[-2][5]
    assert (seen[-1][0], seen[-1][5]) == ("One?", parts.transcript([]))
    assert screen.stops == {}


def test_what_goes_wrong_in_the_writing_thread_reaches_the_reader(parts: ModuleType, make_tokenizer: Any) -> None:
    import models

    found = models.Models.__new__(models.Models)
    found.revisions = {"main": models.LoadedRevision(make_tokenizer(), object(), {IM_END: "eos"}, models.Lock())}
    with pytest.raises(AttributeError, match="device"):
        list(found.answers([("main", [1])], 8))


def test_a_revision_of_weights_is_loaded_by_itself(
    parts: ModuleType, make_model: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    """No base is loaded for it, and beside it a revision with an adapter has one."""
    import models
    from peft import LoraConfig, get_peft_model

    repo, base = tmp_path / "repo", tmp_path / "base"
    make_model(seed=1, max_position_embeddings=64).save_pretrained(repo)
    make_tokenizer().save_pretrained(repo)
    told = {"repo": str(repo), "base": {"repo": str(base), "commit": "0" * 40}, "dtype": "float32"}
    told |= {"end_of_turn": {"id": IM_END, "token": "<|im_end|>"}}
    weights = {"name": "weights", "commit": "1" * 40, "form": "weights"}
    alone = models.Models({**told, "revisions": [weights]})
    assert (alone.positions, alone.max_tokens) == (64, 32)
    (repo / "adapter").mkdir()
    started = make_model(seed=2)
    started.save_pretrained(base)
    get_peft_model(started, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(repo / "adapter")
    both = models.Models({**told, "revisions": [weights, {"name": "adapter", "commit": "2" * 40}]})
    asked = [(name, both.prompt(name, [{"role": "user", "content": "?"}], 4)) for name in ("weights", "adapter")]
    *_, answers = both.answers(asked, 4)
    assert [answer.tokens for answer in answers] == [4, 4] and both.positions == 64
    own = repo.rename(tmp_path / "own")  # with `layout: repos` each revision says where it is
    (repo / "adapter").mkdir(parents=True)
    apart = models.Models({**told, "revisions": [{"name": "apart", "commit": "3" * 40, "repo": str(own)}]})
    assert list(apart.revisions) == ["apart"]
    own, other = (both.revisions[name].model.state_dict() for name in ("weights", "adapter"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert (own[name] == alone.revisions["weights"].model.state_dict()[name]).all() and (own[name] != other[name]).any()


def test_stop_rates_are_shown_where_they_were_measured(parts: ModuleType) -> None:
    revisions = [{"name": name, "commit": "0" * 40, "title": name} for name in ("main", "other")]
    told = {"title": "T", "repo": "me/it", "end_of_turn": {"id": 4, "token": "<e>"}, "revisions": revisions}
    assert "Stop rate" not in parts.heading(told)
    revisions[0]["stop_rate"] = {"stopped": 7, "prompts": 8}  # type: ignore[assignment]
    assert "87.5 % (7 of 8)" in parts.heading(told) and parts.heading(told).count("not measured") == 1


def test_a_revision_in_a_repo_of_its_own_is_linked_there(parts: ModuleType) -> None:
    revisions = [{"name": name, "commit": "0" * 40, "title": name} for name in ("it", "it-dpo")]
    revisions[1]["repo"] = "me/it-dpo"
    told = {"title": "T", "repo": "me/it", "end_of_turn": {"id": 4, "token": "<e>"}, "revisions": revisions}
    linked = [f"/{repo}/tree/{'0' * 40}" for repo in ("me/it", "me/it-dpo")]
    assert all(parts.heading(told).count(link) == 1 for link in linked)


def test_another_end_is_named(parts: ModuleType) -> None:
    assert parts.mark(parts.Answer("", 1, "</s>")) == "ended by </s> · 1 token"
    assert parts.mark(parts.Answer("", 3, "stopped")) == "stopped by you · 3 tokens"
