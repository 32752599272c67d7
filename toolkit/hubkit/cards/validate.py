"""A card checked without a network: the metadata against the Hub's rules and ours, the body for what breaks a page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from hubkit.cards.metadata import read_block
from hubkit.licences import LICENCES
from hubkit.names import repo_id_problem

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
    try:
        data = read_block(text)
    except (yaml.YAMLError, RecursionError) as error:
        return [f"The metadata is not valid YAML: {str(error).splitlines()[0]}."]
    if data is None:
        return ["The card does not begin with metadata between two lines of '---'."]
    return [*_metadata(data), *_index(data.get("model-index")), *_body(text)]


def _metadata(data: Mapping[str, Any]) -> Iterator[str]:
    for key in _REQUIRED:
        if data.get(key) in (None, "", []):
            yield f"The metadata lacks '{key}'."
    licence = data.get("license")
    if licence and licence not in LICENCES:
        yield f"The licence {licence!r} is none of the Hub's identifiers, such as apache-2.0, cc-by-4.0 or other."
    if licence == "other" and not data.get("license_name"):
        yield "The licence 'other' needs 'license_name' and 'license_link'."
    relation = data.get("base_model_relation")
    if relation and relation not in _RELATIONS:
        yield f"'base_model_relation' is {relation!r}; it is one of {', '.join(sorted(_RELATIONS))}."
    for key in ("base_model", "datasets"):
        for item in _list(data.get(key)):
            if not isinstance(item, str) or repo_id_problem(item):
                yield f"'{key}' names {item!r}, which is no repo id of the form namespace/name."
    for item in _list(data.get("language")):
        if not isinstance(item, str) or not _LANGUAGE.fullmatch(item):
            yield f"The language {item!r} is no ISO 639 code such as 'en'."
    for key in ("tags", "language", "datasets"):
        if key in data and not all(isinstance(item, str) for item in _list(data[key])):
            yield f"'{key}' holds something that is not a word."


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
