"""What the Hub takes in the front matter of a Space: one set of rules for `hubkit space deploy` and the embedded Hub.

The records:

- the keys and their values: hub-docs, "Spaces Configuration Reference".
- colorFrom, colorTo, sdk: ``"colorFrom" must be one of [red, yellow, ...]`` (the Hub's validate-yaml).
- short_description: at most 60 characters; the form of its refusal is that of the Hub's other limits of length.
- sdk_version: "Configuration Error: Gradio version does not exist" for 3.27, cured by 3.27.0 (Vision-CAIR/MiniGPT-4,
  issue 255).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.core.card_metadata import MetadataProblem, is_true, metadata_problems
from hubkit.core.names import path_problem

SDKS = ("gradio", "docker", "static", "streamlit")
"""The kinds of Spaces; no new one can be of streamlit, those that exist keep it."""
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
DESCRIPTION_MOST = 60
"""Characters of ``short_description``."""
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:[.-]?(?:alpha|beta|rc|a|b|dev|post)(?:\.?[0-9]+)?){0,3}")
_PYTHON = re.compile(r"3\.([0-9]{1,2})(?:\.[0-9]{1,2})?")
_OLDEST_PYTHON = 7
"""The oldest 3.x of which there still are images that builds can start from."""
_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?)")
_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SHARED = ("license", "datasets", "tags")
"""Keys that a Space has in common with a model, under the same rules."""


def space_problems(data: Mapping[str, Any]) -> Iterator[MetadataProblem]:
    """What is wrong with the front matter ``data`` of a Space, key by key.

    Of an error ``hub`` is the refusal of the commit; the Hub takes the commit and does not build it where it is empty.
    """
    for key, allowed in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
        if (value := data.get(key)) is not None and value not in allowed:
            message = f"{key} is {_shown(value)}; it must be one of {', '.join(allowed)}."
            yield MetadataProblem(key, "error", message, hub=f'"{key}" must be one of [{", ".join(allowed)}]')
    for key in ("title", "emoji", "short_description"):
        if (value := data.get(key)) is not None and not isinstance(value, str):
            message = f"{key} is {_shown(value)}, not a string."
            yield MetadataProblem(key, "error", message, "Write it in quotes.", f'"{key}" must be a string')
    yield from _description(data.get("short_description"))
    yield from _sdk_version(data.get("sdk_version"), data.get("sdk"))
    yield from _python_version(data.get("python_version"))
    yield from _running(data)
    if (value := data.get("pinned")) is not None and is_true(value) is None:
        yield MetadataProblem("pinned", "warning", f"pinned is {_shown(value)}, neither true nor false.")
    yield from metadata_problems({key: data[key] for key in _SHARED if key in data})


def seconds_of(span: object) -> float | None:
    """The seconds that ``startup_duration_timeout`` names, such as '30m'; None when it is no span of time."""
    match = _SPAN.fullmatch(span.strip()) if isinstance(span, str) else None
    return float(match[1]) * _UNIT[match[2][0]] if match else None


def _description(value: Any) -> Iterator[MetadataProblem]:
    if isinstance(value, str) and len(value) > DESCRIPTION_MOST:
        yield MetadataProblem(
            "short_description",
            "error",
            f"short_description has {len(value)} characters; the Hub takes at most {DESCRIPTION_MOST}.",
            "Shorten it.",
            f'"short_description" length must be less than or equal to {DESCRIPTION_MOST} characters long',
        )


def _sdk_version(value: Any, sdk: Any) -> Iterator[MetadataProblem]:
    if value is None or sdk not in ("gradio", "streamlit"):
        return
    if isinstance(value, str) and _VERSION.fullmatch(value):
        return
    number = ", a number in YAML" if isinstance(value, int | float) else ""
    short = str(value)[:20] if isinstance(value, str | float) else ""
    full = f"{short}.0" if re.fullmatch(r"\d+\.\d+", short) else "6.31.0"
    yield MetadataProblem(
        "sdk_version",
        "error",
        f"sdk_version is {_shown(value)}{number}, not a full version: the Hub does not build it ("
        '"Gradio version does not exist").',
        f"Write all its parts, such as `sdk_version: {full}`.",
    )


def _python_version(value: Any) -> Iterator[MetadataProblem]:
    if value is None:
        return
    match = _PYTHON.fullmatch(str(value)[:20]) if isinstance(value, str | float) else None
    if match and int(match[1]) >= _OLDEST_PYTHON:
        return
    message = f"python_version is {_shown(value)}; the Hub takes a version such as '3.10' or '3.10.13'."
    hint = "Write a version that Python still has, in quotes."
    if isinstance(value, float):
        message = f"python_version is {value}, a number in YAML: 3.10 without quotes is 3.1, which no build has."
        hint = "Write it in quotes, such as `python_version: '3.10'`."
    yield MetadataProblem("python_version", "warning", message, hint)


def _running(data: Mapping[str, Any]) -> Iterator[MetadataProblem]:
    """What decides whether the app is started."""
    app_file = data.get("app_file")
    if app_file is not None and (not isinstance(app_file, str) or path_problem(app_file)):
        message = f"app_file is {_shown(app_file)}, which is no path in the repo."
        yield MetadataProblem("app_file", "error", message, "Name the file that starts the app.")
    span = data.get("startup_duration_timeout")
    if span is not None and seconds_of(span) is None:
        message = f"startup_duration_timeout is {_shown(span)}, not a time such as 30s, 10m or 1h."
        yield MetadataProblem("startup_duration_timeout", "error", message)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
