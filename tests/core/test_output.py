"""Output: data to stdout, talk to stderr, and no token anywhere."""

import io
import json

import pytest

from hubkit.core.errors import RefusedError
from hubkit.core.output import Output, hide, redact, table

TOKEN = "hf_" + "aB3" * 12


def made(mode: str) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(mode, out, err), out, err  # type: ignore[arg-type]


def test_json_mode_prints_one_document_on_stdout() -> None:
    output, out, err = made("json")
    output.say("talk")
    output.result({"a": 1}, table(("a",), [("1",)]))
    assert json.loads(out.getvalue()) == {"a": 1}
    assert err.getvalue() == ""


def test_human_mode_keeps_data_and_talk_apart() -> None:
    output, out, err = made("human")
    output.say("talk [bold]")
    output.result({}, table(("head",), [("cell [x]",)]))
    assert "cell [x]" in out.getvalue() and "talk" not in out.getvalue()
    assert err.getvalue() == "talk [bold]\n"


def test_quiet_mode_says_errors_only() -> None:
    output, out, err = made("quiet")
    output.say("talk")
    output.warn("warning")
    output.result({"a": 1})
    output.error(RefusedError("The gate is shut.", hint="Train longer."))
    assert out.getvalue() == ""
    assert err.getvalue() == "Error: The gate is shut.\nTrain longer.\n"


@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
@pytest.mark.fault("S11")
def test_no_token_gets_out(mode: str) -> None:
    hide("a-secret-of-no-known-shape")
    output, out, err = made(mode)
    for text in (f"push with {TOKEN}", "a-secret-of-no-known-shape", f"Authorization: Bearer {TOKEN}"):
        output.say(text)
        output.warn(text)
        output.text(text)
        output.result({"x": text}, text)
        output.error(RefusedError(text, hint=text))
    assert "[token]" in out.getvalue() + err.getvalue()
    assert TOKEN not in out.getvalue() + err.getvalue()
    assert "a-secret" not in out.getvalue() + err.getvalue()


def test_a_word_that_only_begins_like_a_token_stays() -> None:
    assert redact("hf_hub_download and hf_home") == "hf_hub_download and hf_home"


def test_steps_without_a_terminal_are_lines() -> None:
    output, _, err = made("human")
    with output.steps(["a", "b"]) as view:
        view.start("a")
        view.progress("a", "loss 0.3", 0.5)
        view.done("a", "loss 0.1", 72.0)
        view.done("b", "", 1.0, reused=True)
    assert err.getvalue() == "a …\na: 1 min 12 s  loss 0.1\nb: up to date\n"
