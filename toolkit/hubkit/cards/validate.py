"""A card checked without a network: the metadata against the Hub's rules and ours, the body for what breaks a page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from hubkit.cards.metadata import read_block
from hubkit.core.licenses import license_problem
from hubkit.core.names import repo_id_problem

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
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def validate(text: str) -> list[str]:
    """What is wrong with the card ``text``, a sentence each; empty when nothing is."""
    data, problem = _read(text)
    if data is None:
        return [problem or "The card does not begin with metadata between two lines of '---'."]
    return [*_lacking(data), *(said for _, said in _refused(data)), *_body(text)]


def refusals(text: str) -> list[tuple[str, str]]:
    """What of anybody's card the Hub refuses: the key of the metadata ('' for all of it) and a sentence, each.

    A card of ours has to have more than that (:func:`validate`).
    """
    data, problem = _read(text)
    if data is None:
        return [("", problem)] if problem else []
    return list(_refused(data))


def _read(text: str) -> tuple[dict[str, Any] | None, str | None]:
    """The metadata, or why it cannot be read; neither when there is none."""
    try:
        return read_block(text), None
    except (yaml.YAMLError, RecursionError) as error:
        return None, f"The metadata is not valid YAML: {str(error).splitlines()[0]}."
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own constructors, given a tag and a value that do not belong together (!!int x).
        return None, f"The metadata cannot be read: {type(error).__name__}."


def _lacking(data: Mapping[str, Any]) -> Iterator[str]:
    for key in _REQUIRED:
        if data.get(key) in (None, "", []):
            yield f"The metadata lacks '{key}'."


def _refused(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for identifier in _list(data.get("license")):
        if identifier and (problem := license_problem(identifier)):
            yield "license", f"{problem[0].upper()}{problem[1:]}."
    if data.get("license") == "other" and not data.get("license_name"):
        yield "license", "The license 'other' needs 'license_name' and 'license_link'."
    relation = data.get("base_model_relation")
    if relation and (not isinstance(relation, str) or relation not in _RELATIONS):
        said = f"'base_model_relation' is {relation!r}; it is one of {', '.join(sorted(_RELATIONS))}."
        yield "base_model_relation", said
    for key in ("base_model", "datasets"):
        for item in _list(data.get(key)):
            if not isinstance(item, str) or repo_id_problem(item):
                yield key, f"'{key}' names {item!r}, which is no repo id of the form namespace/name."
    for item in _list(data.get("language")):
        if problem := language_problem(item):
            yield "language", problem
    for key in ("tags", "language", "datasets"):
        if key in data and not all(isinstance(item, str) for item in _list(data[key])):
            yield key, f"'{key}' holds something that is not a word."
    yield from (("model-index", said) for said in _index(data.get("model-index")))


def language_problem(code: object) -> str | None:
    """Why the Hub does not take ``code`` for a language, in a sentence; None when it does."""
    if isinstance(code, str) and _LANGUAGE.fullmatch(code):
        return None
    return f"The language {code!r} is no ISO 639 code such as 'en'."


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
            yield f"'model-index' gives {config!r} as a data set's config, which must be a word."


def _body(text: str) -> Iterator[str]:
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
        yield f"The block that line {opened[1]} opens is never closed."
