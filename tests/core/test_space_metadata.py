"""The rules on the front matter of a Space: what the Hub refuses, what it does not build, and what it takes."""

from typing import Any

import pytest

from hubkit.core.space_metadata import COLORS, SDKS, seconds_of, space_problems


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"title": "Greeter", "emoji": "👋", "colorFrom": "blue", "colorTo": "gray", "sdk": "gradio"},
        {"sdk": "gradio", "sdk_version": "6.31.0", "python_version": "3.10", "app_file": "app.py"},
        {"sdk": "gradio", "sdk_version": "5.0.0b3", "python_version": "3.12.4"},
        {"sdk": "gradio", "sdk_version": "4.0.0-beta.1", "python_version": 3.11},
        {"sdk": "docker", "app_port": 7860, "sdk_version": 3},
        {"short_description": "x" * 60, "pinned": "false", "startup_duration_timeout": "1h"},
        {"license": "mit", "tags": ["a"], "models": ["gpt2"], "hf_oauth": True},
    ],
    ids=str,
)
def test_what_the_hub_takes(data: dict[str, Any]) -> None:
    assert list(space_problems(data)) == []


@pytest.mark.parametrize(
    ("data", "level", "words"),
    [
        (
            {"colorFrom": "orange"},
            "error",
            '"colorFrom" must be one of [red, yellow, green, blue, indigo, purple, pink, gray]',
        ),
        ({"colorTo": ["red"]}, "error", '"colorTo" must be one of ['),
        ({"sdk": "panel"}, "error", '"sdk" must be one of [gradio, docker, static, streamlit]'),
        ({"title": 2048}, "error", '"title" must be a string'),
        ({"short_description": "x" * 61}, "error", "must be less than or equal to 60 characters long"),
        ({"license": "mine"}, "error", '"license" must be one of ['),
        ({"sdk": "gradio", "sdk_version": 3.27}, "error", "sdk_version: 3.27.0"),
        ({"sdk": "gradio", "sdk_version": "3.27"}, "error", "sdk_version: 3.27.0"),
        ({"sdk": "gradio", "sdk_version": 5}, "error", "a number in YAML"),
        ({"sdk": "gradio", "sdk_version": "latest"}, "error", "not a full version"),
        ({"python_version": 3.1}, "warning", "3.10 without quotes is 3.1"),
        ({"python_version": "2.7"}, "warning", "python_version is '2.7'"),
        ({"python_version": "3.10.x"}, "warning", "python_version is '3.10.x'"),
        ({"app_file": "../app.py"}, "error", "no path in the repo"),
        ({"startup_duration_timeout": "soon"}, "error", "not a time such as 30s"),
        ({"pinned": "perhaps"}, "warning", "neither true nor false"),
    ],
    ids=str,
)
def test_what_it_does_not(data: dict[str, Any], level: str, words: str) -> None:
    [problem] = space_problems(data)
    assert problem.level == level
    assert any(words in text for text in (problem.message, problem.hint, problem.hub))


def test_every_color_and_kind_is_taken() -> None:
    for color in COLORS:
        assert not list(space_problems({"colorFrom": color, "colorTo": color}))
    for sdk in SDKS:
        assert not list(space_problems({"sdk": sdk}))


@pytest.mark.parametrize(
    ("span", "seconds"), [("30s", 30.0), ("1.5 min", 90.0), ("2h", 7200.0), ("x", None), (30, None)]
)
def test_spans_of_time(span: object, seconds: float | None) -> None:
    assert seconds_of(span) == seconds


def test_no_value_breaks_the_rules() -> None:
    for value in (10**4000, [[[]]], {"a": 1}, "x" * 100_000, f"1.1.1{'a.' * 50_000}!", float("nan"), b"x", None):
        _bounded(value)


def _bounded(value: Any) -> None:
    keys = ("sdk", "colorFrom", "title", "emoji", "short_description", "python_version", "app_file", "pinned",
            "startup_duration_timeout")  # fmt: skip
    for key in keys:
        assert all(len(item.message) < 500 for item in space_problems({key: value}))
    assert all(len(item.hint) < 200 for item in space_problems({"sdk": "gradio", "sdk_version": value}))
