"""The front matter: what the Hub refuses, the license, the base, and whether the files are what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.rules import BASE_RELATION, LICENSE_MISMATCH, LICENSE_NAME
from hubkit.cards.validate import UNCLOSED, problems_of
from hubkit.checks.rules import ADAPTER_AT_ROOT, BASE_MODEL, FRONT_MATTER, LICENSE_MISSING
from hubkit.core.findings import Finding
from hubkit.core.names import named_repo_problem

_RULE_OF = {"base_model": BASE_MODEL, "base_model_relation": BASE_RELATION}
"""Rules of single keys."""
_MOST = 300
_MARKED = re.compile("\ufeff\\s*---")

Lookup = Callable[[str], Mapping[str, Any] | None]
"""The metadata of a repo's card: {} when there is such a repo and its card says nothing, None when there is none."""


def find(document: Document) -> Iterator[Finding]:
    """What the front matter shows by itself."""
    if _MARKED.match(document.text):
        yield FRONT_MATTER.finding(
            "A byte order mark precedes the front matter; the Hub ignores the front matter.",
            "Save the file as UTF-8 without a BOM (byte order mark).",
            file=document.path,
            line=1,
            level="error",
        )
    problems = problems_of(document.text.removeprefix("\ufeff"))
    for item in problems:
        message = item.message if len(item.message) <= _MOST else f"{item.message[:_MOST]}..."
        refused = item.level == "error" and item.hint != UNCLOSED
        yield _RULE_OF.get(item.key, FRONT_MATTER).finding(
            f"{item.refused_by} refuses the front matter. {message}" if refused else message,
            item.hint,
            file=document.path,
            line=document.line_of(item.key),
            level=item.level,
        )
    yield from _license(document, readable=all(item.key for item in problems))


def _license(document: Document, *, readable: bool) -> Iterator[Finding]:
    licence = document.metadata.get("license")
    if not licence and readable:
        yield LICENSE_MISSING.finding(
            "The front matter names no license.",
            "Set `license:` to an identifier of the Hub; use the base model's license unless it allows another.",
            file=document.path,
            line=1,
        )
    if licence == "other" and not document.metadata.get("license_name"):
        yield LICENSE_NAME.finding(
            "The license is 'other', but license_name is missing: the Hub's page then shows only 'other'.",
            "Set `license_name:`, and `license_link:` where the text can be read.",
            file=document.path,
            line=document.line_of("license"),
        )


def bases(document: Document) -> list[str]:
    """What the front matter names as the base."""
    named = document.metadata.get("base_model")
    return [str(item) for item in (named if isinstance(named, list) else [named]) if item]


def find_in_files(document: Document, files: Collection[str]) -> Iterator[Finding]:
    """Whether the files beside the card are what it says they are."""
    if document.path != "README.md":
        return
    merged = any(name.endswith(".safetensors") and "/" not in name and "adapter" not in name for name in files)
    adapter = "adapter_config.json" in files
    if adapter and (merged or "config.json" in files):
        yield ADAPTER_AT_ROOT.finding(
            "adapter_config.json is in the same folder as the merged weights: loaders apply the adapter twice.",
            "Move the adapter's files to adapter/ and use subfolder='adapter' on the card.",
            file=document.path,
            line=1,
        )
    relation, line = document.metadata.get("base_model_relation"), document.line_of("base_model_relation")
    if relation == "adapter" and merged and not adapter:
        yield BASE_RELATION.finding(
            "base_model_relation is 'adapter', but the repo contains the weights of a full model.",
            "Set `base_model_relation: finetune`.",
            file=document.path,
            line=line,
        )
    if relation in {"finetune", "merge"} and adapter and not merged and "config.json" not in files:
        yield BASE_RELATION.finding(
            f"base_model_relation is {relation!r}, but the repo contains only an adapter.",
            "Set `base_model_relation: adapter`.",
            file=document.path,
            line=line,
        )


def find_on_hub(document: Document, look_up: Lookup) -> Iterator[Finding]:
    """Whether the base is there, and has the licence that the card names."""
    licence = document.metadata.get("license")
    for base in bases(document):
        if named_repo_problem(base):
            continue
        held = look_up(base)
        if held is None:
            yield BASE_MODEL.finding(
                f"The base {base} is not on this Hub.",
                "Set base_model to a repo that others can find.",
                file=document.path,
                line=document.line_of("base_model"),
                level="warning",
            )
        elif licence and held.get("license") and _licence(held) != _licence(document.metadata):
            yield LICENSE_MISMATCH.finding(
                f"The license is {_licence(document.metadata)!r}, but the base model {base} has {_licence(held)!r}.",
                "Use the base model's license unless it allows another.",
                file=document.path,
                line=document.line_of("license"),
            )


def _licence(metadata: Mapping[str, Any]) -> Any:
    """The identifier of a licence, or the name of one that has none."""
    licence = metadata.get("license")
    return metadata.get("license_name") or licence if licence == "other" else licence
