"""A card that hubkit wrote, checked without a network: its metadata by the Hub's rules and ours, its code blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hubkit.cards.metadata import read_block
from hubkit.checks.rules import FRONT_MATTER
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.findings import Finding, rule
from hubkit.core.licenses import license_problem
from hubkit.core.names import named_repo_problem

METADATA_MISSING = rule(
    "metadata-missing", "error", "A key of the metadata that every card of a release has.",
    "The Hub shows and searches models by these keys.", "validate",
)  # fmt: skip
UNCLOSED_BLOCK = rule(
    "unclosed-block",
    "error",
    "A code block that is never closed.",
    "The rest of the page is shown as code.",
    "validate",
)
_REQUIRED = (
    "license",
    "language",
    "base_model",
    "base_model_relation",
    "datasets",
    "library_name",
    "pipeline_tag",
    "tags",
)
_RELATIONS = {"adapter", "finetune", "merge", "quantized"}
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
"""What the Hub takes under ``language`` (its documentation, "Model Cards", "Specifying a language")."""
_WITH_REGION = re.compile(r"([a-z]{2,3})[-_][A-Za-z0-9-]+", re.IGNORECASE)
_OPENED = re.compile(r"---[ \t]*\r?\n")
UNCLOSED = "Close the front matter with a line of three hyphens (---)."
_FIX_YAML = "Fix the YAML between the two lines of three hyphens (---)."
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


class Refusal(NamedTuple):
    """Why the Hub refuses the metadata of a card; ``key`` is the one at fault, '' for all of it."""

    key: str
    message: str
    hint: str = "Fix the value, or leave the key out."


def validate(text: str) -> list[Finding]:
    """What is wrong with the card ``text`` of a release of ours; empty when nothing is."""
    data, problem = _read(text)
    if data is None:
        message = problem.message if problem else "The card does not begin with front matter between two '---' lines."
        return [FRONT_MATTER.finding(message, level="error")]
    refused = (FRONT_MATTER.finding(item.message, item.hint, level="error") for item in _refused(data))
    return [*_missing(data), *refused, *_body(text)]


def refusals(text: str) -> list[Refusal]:
    """Why the Hub refuses the metadata of anybody's card, or sees none of it.

    A card of ours needs more than that (:func:`validate`).
    """
    data, problem = _read(text)
    if data is None:
        return [problem] if problem else []
    return list(_refused(data))


def _read(text: str) -> tuple[dict[str, Any] | None, Refusal | None]:
    """The metadata, or why it cannot be read; neither when there is none."""
    try:
        data = read_block(text)
    except YamlError as error:
        return None, Refusal("", f"The metadata is not valid YAML: {error}.", _FIX_YAML)
    if data is None and _OPENED.match(text):
        return None, Refusal("", "The front matter that line 1 opens is never closed.", UNCLOSED)
    return data, None


def _missing(data: Mapping[str, Any]) -> Iterator[Finding]:
    for key in _REQUIRED:
        if data.get(key) in (None, "", []):
            yield METADATA_MISSING.finding(f"The metadata lacks '{key}'.")
    if data.get("license") == "other" and not data.get("license_name"):
        yield METADATA_MISSING.finding("The license 'other' needs 'license_name' and 'license_link'.")


def _refused(data: Mapping[str, Any]) -> Iterator[Refusal]:
    for identifier in _list(data.get("license")):
        if identifier and (problem := license_problem(identifier)):
            yield Refusal("license", f"{problem[0].upper()}{problem[1:]}.")
    relation = data.get("base_model_relation")
    if relation and (not isinstance(relation, str) or relation not in _RELATIONS):
        allowed = ", ".join(sorted(_RELATIONS))
        yield Refusal("base_model_relation", f"'base_model_relation' is {relation!r}; it is one of {allowed}.")
    for key in ("base_model", "datasets"):
        for item in _list(data.get(key)):
            if not isinstance(item, str) or named_repo_problem(item):
                yield Refusal(key, f"'{key}' names {item!r}, which is not a repo id of the form namespace/name.")
    for item in _list(data.get("language")):
        if problem := language_problem(item):
            yield Refusal("language", problem)
    for key in ("tags", "language", "datasets"):
        if key in data and not all(isinstance(item, str) for item in _list(data[key])):
            yield Refusal(key, f"'{key}' contains a value that is not a string.")
    yield from (Refusal("model-index", message) for message in _index(data.get("model-index")))


def language_problem(code: object) -> str | None:
    """Why the Hub does not take ``code`` for a language, in a sentence; None when it does."""
    if isinstance(code, str) and _LANGUAGE.fullmatch(code):
        return None
    message = f"The language {code!r} is no ISO 639 code such as 'en'."
    region = _WITH_REGION.fullmatch(code) if isinstance(code, str) else None
    return f"{message} Write {region[1].lower()!r}, and {code!r} under 'language_bcp47'." if region else message


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _index(index: Any) -> Iterator[str]:
    if index is None:
        return
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        _, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, IndexError) as error:
        yield f"'model-index' is not in the Hub's form: {type(error).__name__} {error}."
        return
    for result in results:
        value = result.metric_value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"'model-index' gives {value!r} for {result.dataset_name}, which is not a number."
        config: Any = result.dataset_config
        if config is not None and not isinstance(config, str):
            yield f"'model-index' gives {config!r} as a dataset's config, which must be a string."


def _body(text: str) -> Iterator[Finding]:
    opened: tuple[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.fullmatch(line)
        if not found:
            continue
        if opened is None:
            opened = (found[1], number)
        elif found[1].startswith(opened[0]) and not found[2].strip():
            opened = None
    if opened is not None:
        yield UNCLOSED_BLOCK.finding(f"The block that line {opened[1]} opens is never closed.", line=opened[1])
