"""The parts of the Space's app, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

IM_END = 260
TOLD = {
    "title": "T",
    "repo": "me/it",
    "end_of_turn": {"id": 4, "token": "<e>"},
    "max_new_tokens": 8,
    "prompts": ["?"],
    "revisions": [{"name": "main", "commit": "0" * 40, "title": "One", "stop_rate": {"stopped": 1, "prompts": 1}}],
}


def test_the_base_is_in_memory_once(parts: ModuleType, make_model: Any) -> None:
    import torch
    from generation import share
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


def _asking(parts: ModuleType, answers: Callable[[], Iterator[Any]], heard: list[Any]) -> Any:
    """The questions of people to models that keep what they are told and give ``answers()``."""
    import asking

    class Models:
        max_tokens = 100

        def prompt(self, revision: str, messages: list[dict[str, str]], limit: int) -> list[int]:
            heard.append(messages)
            return [1]

        def pieces(self, revision: str, ids: list[int]) -> list[tuple[str, bool]]:
            return [("<s>", True)]

    class Loader:
        def wait(self, seconds: float) -> Models:
            return Models()

    return asking.Asking(TOLD, Loader(), lambda asked, settings: answers())


def _ask(asking: Any, text: str, past: list[Any], limit: float = 8, temperature: float = 0) -> list[Any]:
    values = (limit, temperature, 1, "", "main", past)
    return list(asking.ask(("session", "chat"), text, "Be kind.", *values))


def test_marks_are_no_part_of_the_conversation(parts: ModuleType) -> None:
    heard: list[Any] = []
    grown = [[parts.Answer("Par", 2)], [parts.Answer("Paris.", 4, "eos", 2.0)]]
    asking = _asking(parts, lambda: (item for item in grown), heard)
    past: list[Any] = []
    for text in ("One?", "Two?"):
        *_, last = _ask(asking, text, past)
        assert not last[1].interactive, "Send stays off until the page knows that the event is over"
        past = last[4]
        [mark] = last[5][-1]["content"]
        assert (
            mark["text"]
            == '<span class="mark eos">main · stopped by end-of-turn token · 4 tokens · 2.0 tokens/s</span>'
        )
        assert last[6] == '<pre tabindex="0" aria-label="Prompt of main"><mark>&lt;s&gt;</mark></pre>'
    assert heard[1] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Two?"},
    ]
    assert asking.stops == {}
    undone = asking.undo(1, past)
    assert undone[0] == "Two?" and undone[4] == past[:1]
    *_, last = asking.retry(("session", "chat"), 0, 0, "", 8, 0, 1, "", "main", past)
    assert [turn.question for turn in last[4]] == ["One?"]
    *_, last = asking.edit(("session", "chat"), 1, "Three?", "", 8, 0, 1, "", "main", past)
    assert [turn.question for turn in last[4]] == ["One?", "Three?"]


@pytest.mark.parametrize(("most", "changed"), [(2048, {}), (100, {"maximum": 100}), (4, {"maximum": 4, "value": 4})])
def test_a_limit_that_was_set_while_the_models_came_stays(
    parts: ModuleType, most: int, changed: dict[str, int]
) -> None:
    asking = _asking(parts, lambda: iter([]), [])
    asking.usual_limit = 8
    told = asking.fitting_limit(most)
    told = told.constructor_args if isinstance(told, parts.gr.Slider) else {}
    assert told == changed


def test_a_seed_that_was_typed_is_taken_and_none_is_drawn(parts: ModuleType) -> None:
    import asking

    assert asking._seed(" 13 ") == 13 and asking._seed("0") == 0
    assert len({asking._seed("") for _ in range(5)}) > 1
    for typed in ("-1", "one", "4294967296", "1.5"):
        with pytest.raises(parts.gr.Error, match="a whole number from 0"):
            asking._seed(typed)


def test_a_failure_is_logged_and_the_question_is_given_back(
    parts: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradio

    warnings: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda message, title: warnings.append(message))

    def answers() -> Iterator[list[Any]]:
        yield [parts.Answer("Par", 2)]
        raise RuntimeError("out of memory")

    asking = _asking(parts, answers, [])
    seen = _ask(asking, "One?", [])
    assert seen[-2][5][1]["content"][0]["text"] == "Par"
    assert seen[-1][0] == "One?" and seen[-1][4:6] == [[], []] and not seen[-1][1].interactive
    assert warnings == ["The model failed: RuntimeError: out of memory. Your message is in the box again."]
    assert "out of memory" in caplog.text and asking.stops == {}
    _ask(asking, "One?", [], limit=101)
    assert warnings[1] == "Max new tokens must be between 1 and 100."


@pytest.mark.parametrize(("measured", "takes"), [(8, 8), (300, 100)])
def test_without_a_limit_a_program_gets_that_of_the_measurements_or_what_the_model_takes(
    parts: ModuleType, measured: int, takes: int
) -> None:
    import endpoints

    limits: list[int] = []

    def generate(asked: Any, settings: Any) -> Iterator[Any]:
        limits.append(settings.limit)
        yield [parts.Answer("Paris.", 4, "eos", 2.0)]

    loader = _asking(parts, lambda: iter([]), []).loader
    offered = endpoints.Endpoints(TOLD | {"max_new_tokens": measured}, loader, generate, 9.0)
    assert [item["text"] for item in offered.answer("One?", "main")] == ["Paris."]
    assert limits == [takes]


def test_a_second_question_waits_for_the_first(parts: ModuleType) -> None:
    asking = _asking(parts, lambda: (item for item in [[parts.Answer("a", 1)], [parts.Answer("b", 2, "eos")]]), [])
    first = asking.ask(("session", "chat"), "One?", "", 8, 0, 1, "", "main", [])
    next(first)
    heard = _ask(asking, "Two?", [])
    assert len(heard) == 1 and all(value == parts.gr.skip() for value in heard[0])
    assert len(list(first)) == 3 and asking.stops == {}


def test_what_goes_wrong_in_the_writing_thread_reaches_the_reader(parts: ModuleType, make_tokenizer: Any) -> None:
    from queue import Queue

    import generation

    trees: Queue[Any] = Queue()
    trees.put(object())
    revision = generation.LoadedRevision(make_tokenizer(), trees, {IM_END: "eos"})
    with pytest.raises(AttributeError, match="device"):
        list(generation.stream([(revision, [1])], generation.Settings(8)))
    assert trees.qsize() == 1, "the next answer has a model"


def test_a_revision_of_weights_is_loaded_by_itself(
    parts: ModuleType, make_model: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    """No base is loaded for it, and beside it a revision with an adapter has one; a long answer is cut off in time."""
    import models
    from generation import Settings
    from peft import LoraConfig, get_peft_model

    repo, base = tmp_path / "repo", tmp_path / "base"
    make_model(seed=1, max_position_embeddings=64).save_pretrained(repo)
    make_tokenizer().save_pretrained(repo)
    weights = {"name": "weights", "form": "weights"}
    alone = models.Models({"title": "T", "repo": str(repo), "revisions": [weights]})
    assert (alone.positions, alone.max_tokens) == (64, 32)
    assert set(alone.revisions["weights"].ends) == {257, IM_END}, "the tokenizer's EOS token and the model's"
    (repo / "adapter").mkdir()
    started = make_model(seed=2)
    started.save_pretrained(base)
    get_peft_model(started, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(repo / "adapter")
    told = {"repo": str(repo), "base": {"repo": str(base), "commit": "0" * 40}, "dtype": "float32"}
    told |= {"end_of_turn": {"id": IM_END, "token": "<|im_end|>"}}
    both = models.Models({**told, "revisions": [weights, {"name": "adapter", "commit": "2" * 40}]})
    asked = [(name, both.prompt(name, [{"role": "user", "content": "?"}], 4)) for name in ("weights", "adapter")]
    *_, answers = both.answers(asked, Settings(4))
    assert [answer.tokens for answer in answers] == [4, 4] and both.positions == 64
    *_, [late, _] = both.answers(asked, Settings(20, seconds=0.0))
    assert late.ended == "timeout" and late.tokens < 20
    own = repo.rename(tmp_path / "own")  # with `layout: repos` each revision says where it is
    (repo / "adapter").mkdir(parents=True)
    apart = models.Models({**told, "revisions": [{"name": "apart", "commit": "3" * 40, "repo": str(own)}]})
    assert list(apart.revisions) == ["apart"]
    trees = [
        loaded.revisions[name].trees.get()
        for loaded, name in ((both, "weights"), (both, "adapter"), (alone, "weights"))
    ]
    own, other, same = (tree.state_dict()["model.layers.0.mlp.up_proj.weight"] for tree in trees)
    assert (own == same).all() and (own != other).any()


def test_an_adapter_that_does_not_fit_the_base_gives_way_to_the_merged_weights(
    parts: ModuleType, make_model: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    import models
    from generation import Settings
    from peft import LoraConfig, get_peft_model

    repo, base = tmp_path / "repo", tmp_path / "base"
    make_model(seed=1, hidden_size=32, num_attention_heads=4).save_pretrained(base)
    model = make_model(seed=2)
    model.save_pretrained(repo)
    make_tokenizer().save_pretrained(repo)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(repo / "adapter")
    told = {"repo": str(repo), "base": {"repo": str(base)}, "revisions": [{"name": "main"}]}
    loaded = models.Models(told)
    *_, [answer] = loaded.answers([("main", loaded.prompt("main", [{"role": "user", "content": "?"}], 3))], Settings(3))
    assert answer.tokens == 3


def test_a_model_that_is_too_big_is_not_loaded(
    parts: ModuleType, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import loading
    import page

    make_model().save_pretrained(tmp_path)
    told = {"repo": str(tmp_path), "revisions": [{"name": "main", "form": "weights"}]}
    assert loading.bytes_needed(told) == (tmp_path / "model.safetensors").stat().st_size
    assert loading.bytes_free() > 0
    monkeypatch.setattr(loading, "bytes_free", lambda: 1000)
    loader = loading.Loader(told)
    loader.run()
    assert loader.progress().state == "failed"
    shown = page.progress(loader.progress())
    assert 'role="alert"' in shown and "this machine has 1.0 kB free" in shown and "larger hardware" in shown
    with pytest.raises(loading.NotReady, match="needs about"):
        loader.wait(0)


def test_the_hub_is_asked_again_until_it_answers(parts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import loading

    monkeypatch.setattr(loading, "RETRY_SECONDS", (0,))
    seen: list[str] = []

    def load(told: Any, report: Any) -> str:
        seen.append(loader.progress().message)
        if len(seen) < 3:
            raise OSError("We couldn't connect") from ConnectionError()
        return "models"

    loader = loading.Loader({}, load)
    loader.run()
    assert seen[1:] == ["The Hub cannot be reached, so the model is not loaded yet. The next try is in 0 s."] * 2
    assert loader.progress().state == "ready" and loader.wait(0) == "models"


def test_a_model_that_is_not_there_is_said_once(parts: ModuleType, tmp_path: Path) -> None:
    import loading

    loader = loading.Loader({"repo": str(tmp_path / "none"), "revisions": [{"name": "main", "form": "weights"}]})
    loader.run()
    assert loader.progress().state == "failed" and "The model does not load" in loader.progress().message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>c</b>", "a \\<b>c\\</b>"),
        ("`<b>` ``a`<b>`` <b>", "`<b>` ``a`<b>`` \\<b>"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n\\<b>"),
        ("```\n<b> ![x](y)", "```\n<b> ![x](y)"),
        ("![x](http://a/b.png)", "!\\[x](http://a/b.png)"),
        ("  indented\n    too", "  indented\n    too"),
    ],
)
def test_html_and_pictures_are_shown_as_text(parts: ModuleType, text: str, shown: str) -> None:
    from conversation import markdown, plain

    assert markdown(text) == shown and plain(shown) == text


def test_a_backslash_does_not_bring_html_back(parts: ModuleType) -> None:
    from conversation import markdown

    assert markdown("\\<b> \\\\<b>") == "\\<b> \\\\\\<b>"


def test_stop_rates_are_shown_where_they_were_measured(parts: ModuleType) -> None:
    import page

    revisions = [{"name": name, "commit": "0" * 40, "title": name} for name in ("main", "other")]
    told: dict[str, Any] = {"title": "T", "repo": "me/it", "revisions": revisions}
    assert page.measurements(told) == "" and "stops at" not in page.about(told, "main")
    revisions[0]["stop_rate"] = {"stopped": 7, "prompts": 8}  # type: ignore[assignment]
    assert "stops at 87.5 % (7 of 8)" in page.about(told, "main")
    assert "87.5 % (7 of 8)" in page.measurements(told) and page.measurements(told).count("not measured") == 1
    assert "Chat with" in page.heading({**told, "revisions": revisions[:1]})


def test_a_revision_in_a_repo_of_its_own_is_linked_there(parts: ModuleType, tmp_path: Path) -> None:
    import page

    revisions = [{"name": name, "commit": "0" * 40, "title": name} for name in ("it", "it-dpo")]
    revisions[1]["repo"] = "me/it-dpo"
    told = {"title": "T", "repo": "me/it", "revisions": revisions}
    for name in ("it", "it-dpo"):
        assert f"/me/{name}/tree/{'0' * 40}" in page.about(told, name)
    local = {"title": "T", "repo": str(tmp_path), "revisions": [{"name": "main", "form": "weights"}]}
    assert "href" not in page.heading(local) + page.about(local, "main")


def test_another_end_is_named(parts: ModuleType) -> None:
    from conversation import Turn, mark

    assert mark(Turn("main", "?", parts.Answer("", 1, "</s>"))) == "main · ended by </s> · 1 token"
    assert mark(Turn("main", "?", parts.Answer("", 3, "stopped"))) == "main · stopped by you · 3 tokens"
