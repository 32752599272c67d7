"""A card that hubkit wrote, checked without a network: its metadata by the Hub's rules and ours, its code blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.cards.metadata import read_block
from hubkit.checks.rules import FRONT_MATTER
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.card_metadata import MetadataProblem, as_list, metadata_problems
from hubkit.core.findings import Finding, rule

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
    "library_name",
    "pipeline_tag",
    "tags",
)
_OPENED = re.compile(r"---[ \t]*\r?\n")
UNCLOSED = "Close the front matter with a line of three hyphens (---)."
_FIX_YAML = "Fix the YAML between the two lines of three hyphens (---)."
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def validate(text: str) -> list[Finding]:
    """What is wrong with the card ``text`` of a release of ours; empty when nothing is."""
    data, problem = _read(text)
    if data is None:
        message = problem.message if problem else "The card does not begin with front matter between two '---' lines."
        return [FRONT_MATTER.finding(message, level="error")]
    refused = (FRONT_MATTER.finding(item.message, item.hint, level="error") for item in _own_problems(data))
    return [*_missing(data), *refused, *_body(text)]


def problems_of(text: str) -> list[MetadataProblem]:
    """What is wrong with the metadata of anybody's card, or why the Hub sees none of it.

    A card of ours needs more than that (:func:`validate`).
    """
    data, problem = _read(text)
    if data is None:
        return [problem] if problem else []
    return list(metadata_problems(data))


def _read(text: str) -> tuple[dict[str, Any] | None, MetadataProblem | None]:
    """The metadata, or why it cannot be read; neither when there is none."""
    try:
        data = read_block(text)
    except YamlError as error:
        by = (
            "huggingface_hub" if "tab" in error.problem or "\\t" in error.problem else "The Hub"
        )  # YAML 1.2 has more tabs
        message = f"The metadata is not valid YAML: {error}."
        return None, MetadataProblem("", "error", message, _FIX_YAML, refused_by=by)
    if data is None and _OPENED.match(text):
        return None, MetadataProblem("", "error", "The front matter that line 1 opens is never closed.", UNCLOSED)
    return data, None


def _missing(data: Mapping[str, Any]) -> Iterator[Finding]:
    for key in _REQUIRED:
        if data.get(key) in (None, "", []):
            yield METADATA_MISSING.finding(f"The metadata lacks '{key}'.")
    if data.get("license") == "other" and not data.get("license_name"):
        yield METADATA_MISSING.finding("The license 'other' needs 'license_name' and 'license_link'.")


def _own_problems(data: Mapping[str, Any]) -> Iterator[MetadataProblem]:
    """What a card of ours must not have: what the Hub refuses or warns of, and scores that are no numbers."""
    yield from (item for item in metadata_problems(data) if item.level != "note")
    for where, value in _metric_values(data.get("model-index")):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield MetadataProblem(
                "model-index", "error", f"'model-index' gives {value!r} for {where}, which is not a number."
            )


def _metric_values(index: Any) -> Iterator[tuple[str, Any]]:
    for model in index if isinstance(index, list) else []:
        for result in model.get("results") or [] if isinstance(model, Mapping) else []:
            if isinstance(result, Mapping) and isinstance(result.get("dataset"), Mapping):
                for metric in as_list(result.get("metrics")):
                    if isinstance(metric, Mapping) and "value" in metric:
                        yield str(result["dataset"].get("name")), metric["value"]


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
