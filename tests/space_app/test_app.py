"""The Space's app as programs and people meet it: asked by gradio_client, and in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from commands import until

from hubkit.core.processes.app import App

EOS, IM_END, FAILING_SEED = 257, 260, 13
IN_ANOTHER_PROCESS = """\
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
info = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
job = client.submit("Hello?", "runs-on", limit=40, api_name="/answer")
grown = [answer["text"] for answer in job]
both = list(client.submit("Hello?", left="main", right="runs-on", limit=12, api_name="/compare"))[-1]
history = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
prompt = client.predict("Three? <|im_end|>", "main", "Be kind.", history, api_name="/prompt")
seeded = [client.predict("Hello?", "odd", temperature=1, seed=7, api_name="/answer")["text"] for _ in range(2)]
other = client.predict("Hello?", "odd", temperature=1, seed=8, api_name="/answer")["text"]
revisions = client.predict(api_name="/revisions")
print(json.dumps([info, grown, both, prompt, seeded, other, revisions]))
"""


@pytest.fixture
def open_page(browser: Any, app: App) -> Iterator[Callable[..., Any]]:
    """Open the app in a browser of its own, which asks nothing of any other host."""
    contexts, asked = [], []

    def open_it(width: int = 1280, height: int = 900, theme: str = "light", url: str = app.url) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.goto(f"{url}/?__theme={theme}")
        page.wait_for_selector("#compare-send:enabled")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert all(url.startswith((app.url, "data:", "blob:")) for url in asked), asked


def _busy(app: App) -> bool:
    """Whether the app's processes used more than a fifth of a core in the last half second."""
    tree = [psutil.Process(app.pid), *psutil.Process(app.pid).children(recursive=True)]
    before = sum(sum(item.cpu_times()[:2]) for item in tree)
    time.sleep(0.5)
    return sum(sum(item.cpu_times()[:2]) for item in tree) - before > 0.1


def _marks(page: Any, side: str, count: int) -> list[str]:
    """The marks of one side, once there are ``count`` and no answer grows."""
    page.wait_for_function(
        "([id, count]) => document.querySelectorAll(`#${id} .mark`).length == count"
        " && !document.querySelector(`#${id} .growing`)",
        arg=[side, count],
    )
    return [str(item.inner_text()) for item in page.locator(f"#{side} .mark").all()]


def _messages(page: Any, side: str) -> list[str]:
    """Questions, answers and marks of one side."""
    return [str(item.inner_text()).strip() for item in page.locator(f"#{side} .message-content").all()]


def _choose(page: Any, side: str, revision: str) -> None:
    page.click(f"#{side}-revision input")
    page.get_by_role("option", name=revision, exact=True).click()
    page.wait_for_function(
        "([id, name]) => document.querySelector(`#${id}-revision input`).value == name", arg=[side, revision]
    )


def _send(page: Any, tab: str, text: str) -> None:
    page.wait_for_selector(f"#{tab}-send:enabled")
    page.fill(f"#{tab}-prompt textarea", text)
    page.keyboard.press("Enter")


def _set(page: Any, setting: str, value: str) -> None:
    if not page.locator(f"#{setting}").is_visible():
        page.click("#settings button")
    page.fill(f"#{setting} :is(input[type=number], input[type=text], textarea)", value)
    page.keyboard.press("Tab")


def _tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def _newest_is_in_view(page: Any, side: str) -> bool:
    """Whether the last mark of one side is within its chatbot and within the window."""
    return bool(
        page.evaluate(
            """id => {
                const log = document.querySelector(`#${id} [role=log]`).getBoundingClientRect();
                const mark = [...document.querySelectorAll(`#${id} .mark`)].at(-1).getBoundingClientRect();
                return mark.top >= log.top && mark.bottom <= log.bottom + 1 && mark.bottom <= innerHeight;
            }""",
            side,
        )
    )


def _violations(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(
        "Promise.allSettled(document.getAnimations().filter(one => one.transitionProperty).map(one => one.finished))"
    )
    found = Axe().run(page).response["violations"]
    return [
        f"{item['id']}: {item['nodes'][0]['html'][:200]}" for item in found if item["impact"] in {"serious", "critical"}
    ]


def test_the_page_says_that_the_model_is_being_loaded(starting: tuple[App, Path], browser: Any) -> None:
    running, go = starting
    page = browser.new_page()
    page.goto(running.url)
    banner = page.locator("#banner .banner.loading")
    banner.wait_for()
    assert "The model is being loaded." in banner.inner_text()
    assert page.locator("#compare-send").is_disabled() and page.locator(".example").first.is_disabled()
    go.touch()
    page.wait_for_selector("#compare-send:enabled", timeout=120_000)
    banner.wait_for(state="hidden")
    page.close()


def test_an_answer_says_how_it_ended(client: Any) -> None:
    def ask(*args: Any, **more: Any) -> dict[str, Any]:
        found = client.predict(*args, **more, api_name="/answer")
        assert found.pop("seconds") > 0 and found.pop("seed") is None
        return dict(found)

    assert ask("Hello?", "main", "", 24) == {"text": "Paris.", "ended": "eos", "tokens": 7}
    assert ask(prompt="Hello?", revision="runs-on", limit=10) == {"text": "la, la, la", "ended": "limit", "tokens": 10}


def test_another_process_finds_and_uses_the_endpoints(app: App) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", IN_ANOTHER_PROCESS, app.url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    info, grown, both, prompt, seeded, other, revisions = json.loads(done.stdout)
    assert list(info) == ["/answer", "/compare", "/prompt", "/revisions", "/status"]
    types = {item["parameter_name"]: item["python_type"]["type"] for item in info["/answer"]["parameters"]}
    assert types["prompt"] == types["revision"] == "str"
    assert types["limit"] == "None | int" and types["top_p"] == "float"
    assert all(item["description"] for item in info.values())
    assert len(grown) > 2 and grown[-1] == "la, " * 10
    assert all(later.startswith(earlier) for earlier, later in pairwise(grown))
    assert (both["left"]["text"], both["right"]["ended"]) == ("Paris.", "limit")
    assert prompt["text"] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
        "Two.<|im_end|>\n<|im_start|>user\nThree? <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt["tokens"].count(IM_END) == 4, "the token that somebody typed is text"
    assert seeded[0] == seeded[1] != other
    assert revisions[0]["name"] == "main" and revisions[0]["stop_rate"] == {"stopped": 7, "prompts": 8}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9}, {"temperature": 2, "top_p": 0.8}])
def test_answers_are_those_of_transformers(client: Any, release: tuple[Any, Any], sampling: dict[str, float]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = release[0].folders["odd"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(release[0].base), folder / "adapter").eval()
    drawn = {"do_sample": True, "top_k": 0, **sampling} if sampling else {"do_sample": False}
    drawn |= {name: float(value) for name, value in sampling.items()}
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
        torch.manual_seed(5)
        made = model.generate(**prompt, **drawn, max_new_tokens=24, eos_token_id=[EOS, IM_END], pad_token_id=EOS)
        ids = made[0, prompt["input_ids"].shape[1] :].tolist()
        said = client.predict(text, "odd", system, 24, seed=5, **sampling, api_name="/answer")
        assert said["text"] == tokenizer.decode(ids, skip_special_tokens=True)
        assert said["tokens"] == len(ids)
        assert said["ended"] == {IM_END: "eos", EOS: "</s>"}.get(ids[-1], "limit")
        seen.add(said["text"])
    assert len(seen) == 3, "this model must depend on what it reads, or the test shows nothing"
    assert torch.isfinite(model(**prompt).logits).all()


def test_requests_at_the_same_time_do_not_disturb_each_other(client: Any) -> None:
    def ask(item: tuple[str, str, int]) -> tuple[str, int]:
        text, revision, seed = item
        found = client.predict(text, revision, "", 32, 1.0 if seed else 0.0, seed=seed, api_name="/answer")
        return found["text"], found["tokens"]

    asked = [
        ("One?", "odd", 1),
        ("One?", "odd", 2),
        ("Two?", "odd", 0),
        ("One?", "main", 0),
        ("Two?", "runs-on", 0),
    ] * 2
    one_by_one = [ask(item) for item in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    assert together == one_by_one


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"revision": "none"}, "Unknown revision. Available: main, runs-on, odd, hostile"),
        ({"limit": 0}, "between 1 and 2048"),
        ({"limit": 2049}, "between 1 and 2048"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "x" * 9000}, "more than the model's context of 8192"),
        ({"temperature": -1}, "temperature must be between 0 and 5"),
        ({"history": [{"role": "robot", "content": "x"}]}, "history is a list of"),
    ],
)
def test_what_cannot_be_asked_is_refused(client: Any, changed: dict[str, Any], words: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=words):
        client.predict(**{"prompt": "Hello?", "revision": "main", "limit": 8, **changed}, api_name="/answer")


def test_compare_comes_first_and_an_example_shows_what_was_measured(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.get_by_role("tab").first.inner_text() == "Compare"
    assert "stops at 87.5 % (7 of 8)" in page.locator(".about").first.inner_text()
    page.get_by_role("button", name="Where is Paris?").first.click()
    assert _marks(page, "compare-left", 1) == ["main · stopped by end-of-turn token · 13 tokens · measured at release"]
    assert _marks(page, "compare-right", 1) == ["runs-on · hit the token limit · 2 tokens · measured at release"]
    assert page.locator("#compare-left em").inner_text() == "France", "Markdown is rendered"
    page.wait_for_selector("#compare-send:enabled")
    page.locator("#compare-left").get_by_role("button", name="Retry").click()
    page.wait_for_function("document.querySelector('#compare-left .mark')?.innerText.includes('tokens/s')")
    assert _messages(page, "compare-left")[1] == "Paris." and _messages(page, "compare-right")[1] == "la"
    _send(page, "compare", "Where?")
    assert re.fullmatch(
        r"main · stopped by end-of-turn token · 7 tokens · [\d,.]+ tokens/s", _marks(page, "compare-left", 2)[1]
    )
    assert _marks(page, "compare-right", 2)[1].startswith("runs-on · hit the token limit · 24 tokens · ")
    page.wait_for_selector("#compare-send:enabled")
    page.click("#compare-prompts button")
    prompt = page.locator("#compare-prompts pre").first
    assert prompt.inner_text().endswith("<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.locator("mark").first.inner_text() == "<|im_start|>"
    page.locator("#compare-right").get_by_role("button", name="Undo").click()
    assert len(_marks(page, "compare-left", 1)) == len(_marks(page, "compare-right", 1)) == 1
    assert page.input_value("#compare-prompt textarea") == "Where?"
    page.locator("#compare-left").get_by_role("button", name="Edit").click()
    page.locator("#compare-left textarea").fill("Why <b>?")
    page.locator("#compare-left").get_by_role("button", name="Submit").click()
    page.wait_for_function("document.querySelector('#compare-right .message-content')?.innerText.trim() == 'Why <b>?'")
    assert len(_marks(page, "compare-right", 1)) == 1
    _tab(page, "Measured")
    measured = page.locator("#measured").inner_text()
    assert all(words in measured for words in ("0 % (0 of 8)", "0.2500 ± 0.0100", "not measured", "In *France*."))
    assert _violations(page) == []


def test_the_newest_answer_is_in_view_after_twelve_questions_and_users_are_apart(open_page: Callable[..., Any]) -> None:
    page, other = open_page(), open_page(390, 844, "dark")
    _set(page, "limit", "6")
    for number in range(12):
        _send(page, "compare", f"Question {number}?")
        _marks(page, "compare-left", number + 1)
        _marks(page, "compare-right", number + 1)
    assert _newest_is_in_view(page, "compare-left") and _newest_is_in_view(page, "compare-right")
    assert _messages(page, "compare-left")[-3] == "Question 11?"
    _tab(page, "Chat")
    for number in range(12):
        _send(page, "chat", f"Another {number}?")
        _marks(page, "chat-answers", number + 1)
    assert _newest_is_in_view(page, "chat-answers")
    page.wait_for_selector("#chat-send:enabled")
    assert _violations(page) == []
    assert _messages(other, "compare-left") == [], "nobody sees what others ask"
    _send(other, "compare", "Where?")
    assert len(_marks(other, "compare-right", 1)) == 1 and _messages(other, "compare-left")[0] == "Where?"
    box = other.locator("#compare-prompt").bounding_box()
    assert box["y"] > 740 and box["y"] + box["height"] <= 844, "on a phone the message box stays at the bottom"
    assert other.evaluate("document.documentElement.scrollWidth") <= 390, "it must fit a phone"
    other.click("#settings button")
    other.click("#compare-prompts button")
    other.locator("#compare-prompts pre").first.wait_for()
    assert _violations(other) == []
    other.wait_for_selector("#compare-clear:enabled")
    other.click("#compare-clear")
    assert _marks(other, "compare-right", 0) == [] and len(_marks(page, "chat-answers", 12)) == 12


def test_a_failure_in_mid_answer_leaves_the_buttons_usable(open_page: Callable[..., Any]) -> None:
    page = open_page()
    _set(page, "temperature", "2")  # an int, as sliders send at their ends
    assert page.input_value("#seed :is(input, textarea)") == "", "no seed is not seed 0"
    _set(page, "seed", str(FAILING_SEED))
    _send(page, "compare", "Where?")
    page.get_by_text("out of <b>memory</b>").wait_for()
    page.wait_for_selector("#compare-send:enabled")
    assert page.input_value("#compare-prompt textarea") == "Where?" and _messages(page, "compare-left") == []
    _set(page, "seed", "1")
    page.click("#compare-send")
    assert "temperature 2, seed 1" in _marks(page, "compare-right", 1)[0]
    page.fill("#compare-prompt textarea", "x" * 9000)
    page.wait_for_selector("#compare-send:enabled")
    page.click("#compare-send")
    page.get_by_text("more than the model's context of 8192").wait_for()
    page.wait_for_selector("#compare-send:enabled")
    assert len(page.input_value("#compare-prompt textarea")) == 9000, "what was typed is kept"


def test_the_keyboard_is_enough(open_page: Callable[..., Any]) -> None:
    page = open_page()

    def press_until(selector: str, key: str = "Tab") -> None:
        for _ in range(40):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press(key)
        raise AssertionError(f"{selector} is not reached")

    press_until("[role=tab][aria-selected=true]")
    press_until("#compare-prompt textarea")
    page.keyboard.type("Where?")
    page.keyboard.press("Enter")
    _marks(page, "compare-left", 1)
    page.wait_for_selector("#compare-send:enabled")
    assert page.evaluate("document.activeElement.matches('#compare-prompt textarea')"), "the focus stays"
    press_until("#compare-left [aria-label=Retry]", "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("!document.activeElement.matches('#compare-left [aria-label=Retry]')")  # it answers again
    assert len(_marks(page, "compare-left", 1)) == 1
    page.wait_for_selector("#compare-send:enabled")
    press_until(".example")
    page.keyboard.press("Space")
    _marks(page, "compare-left", 2)
    press_until("#settings button")
    page.keyboard.press("Enter")
    press_until("#system textarea")
    logs = [item.get_attribute("aria-label") for item in page.get_by_role("log").all()]
    assert logs == ["Answers: Left revision", "Answers: Right revision"]


def test_what_a_model_says_is_shown_and_never_run(open_page: Callable[..., Any], release: tuple[Any, Any]) -> None:
    page = open_page()
    title, text = page.title(), release[0].told["hostile_text"]
    _tab(page, "Chat")
    _choose(page, "chat-answers", "hostile")
    _send(page, "chat", "<img src=x onerror=\"document.title='owned'\"> ![](http://192.0.2.1/x.png)")
    assert _marks(page, "chat-answers", 1)[0].startswith("hostile · ended by </s> · 2 tokens")
    question, answer, _ = _messages(page, "chat-answers")
    assert question == "<img src=x onerror=\"document.title='owned'\"> ![](http://192.0.2.1/x.png)"
    assert answer == text.replace("[link](javascript:document.title='owned')", "link")
    assert page.locator("#chat-answers :is(img, script, [href^=javascript])").count() == 0
    assert page.title() == title == "Tuned & tried"


def test_stop_ends_the_generation(open_page: Callable[..., Any], app: App, client: Any) -> None:
    page = open_page()
    _tab(page, "Chat")
    _choose(page, "chat-answers", "runs-on")
    _set(page, "limit", "2048")
    grown = "(document.querySelectorAll('#chat-answers .message-content')[1]?.innerText.length ?? 0) > 40"
    _send(page, "chat", "Go on.")
    page.wait_for_function(grown)
    page.click("#chat-stop")
    [mark] = _marks(page, "chat-answers", 1)
    found = re.fullmatch(r"runs-on · stopped by you · ([\d,]+) tokens · [\d,.]+ tokens/s", mark)
    assert found and 20 < int(found[1].replace(",", "")) < 1500
    until(lambda: not _busy(app), 5)
    assert client.predict("Hello?", "runs-on", "", 2, api_name="/answer")["tokens"] == 2
    _send(page, "chat", "And on.")
    page.wait_for_selector("#chat-answers .growing")
    until(lambda: _busy(app), 5)
    page.context.close()  # and a closed tab too
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
        inside.locator("#compare-send:enabled").wait_for()
        inside.locator("#compare-prompt textarea").fill("Where?")
        inside.locator("#compare-send").click()
        assert "stopped by end-of-turn token" in inside.locator("#compare-left .mark").inner_text()
        page.close()
        server.shutdown()
