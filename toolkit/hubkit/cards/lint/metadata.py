"""The front matter: what the Hub would refuse, the licence, the base, and whether the files are what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.finding import Fault
from hubkit.cards.validate import refusals
from hubkit.core.names import repo_id_problem

_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_OWN_RULES = frozenset({"base_model", "base_model_relation"})
_MOST = 300
_MARKED = re.compile("\ufeff\\s*---")

Lookup = Callable[[str], Mapping[str, Any] | None]
"""The metadata of a repo's card: {} when there is such a repo and its card says nothing, None when there is none."""


def find(document: Document) -> Iterator[Fault]:
    """What the front matter shows by itself."""
    if _MARKED.match(document.text):
        yield Fault(
            "front-matter", document.path, 1,
            "A BOM stands before the front matter, so that the Hub does not see it.",
            "Save the file as UTF-8 without a BOM (byte order mark).",
        )  # fmt: skip
    for key, problem in refusals(document.text.removeprefix("\ufeff")):
        if key not in _OWN_RULES:
            said = problem if len(problem) <= _MOST else f"{problem[:_MOST]}..."
            yield Fault(
                "front-matter", document.path, document.line_of(key), f"The Hub refuses the front matter. {said}",
                "Mend the value, or leave the key out.",
            )  # fmt: skip
    licence = document.metadata.get("license")
    if not licence:
        yield Fault(
            "licence-missing", document.path, 1, "The front matter names no licence.",
            "Write `license:` with the Hub's identifier; that of the base, unless you may choose another.",
        )  # fmt: skip
    line = document.line_of("base_model")
    for base in bases(document):
        if wrong := repo_id_problem(base):
            yield Fault(
                "base-model", document.path, line, f"base_model is {base!r}, which is no repo id: {wrong}.",
                "Write namespace/name of the base on the Hub.",
            )  # fmt: skip
    relation = document.metadata.get("base_model_relation")
    if relation is not None and relation not in _RELATIONS:
        yield Fault(
            "base-relation", document.path, document.line_of("base_model_relation"),
            f"base_model_relation is {relation!r}.", f"It is one of {', '.join(_RELATIONS)}.",
        )  # fmt: skip


def bases(document: Document) -> list[str]:
    """What the front matter names as the base."""
    named = document.metadata.get("base_model")
    return [str(item) for item in (named if isinstance(named, list) else [named]) if item]


def find_in_files(document: Document, files: Collection[str]) -> Iterator[Fault]:
    """Whether the files beside the card are what it says they are."""
    if document.path != "README.md":
        return
    merged = any(name.endswith(".safetensors") and "/" not in name and "adapter" not in name for name in files)
    adapter = "adapter_config.json" in files
    if adapter and (merged or "config.json" in files):
        yield Fault(
            "adapter-at-root", document.path, 1,
            "adapter_config.json lies beside the merged weights: loaders attach the adapter a second time.",
            "Move the adapter's files to adapter/, and show subfolder='adapter' on the card.",
        )  # fmt: skip
    relation, line = document.metadata.get("base_model_relation"), document.line_of("base_model_relation")
    if relation == "adapter" and merged and not adapter:
        yield Fault(
            "base-relation", document.path, line, "The card says 'adapter', and the weights are a whole model's.",
            "Write `base_model_relation: finetune`.",
        )  # fmt: skip
    if relation in {"finetune", "merge"} and adapter and not merged and "config.json" not in files:
        yield Fault(
            "base-relation", document.path, line, f"The card says {relation!r}, and there is an adapter only.",
            "Write `base_model_relation: adapter`.",
        )  # fmt: skip


def find_on_hub(document: Document, look_up: Lookup) -> Iterator[Fault]:
    """Whether the base is there, and has the licence that the card names."""
    licence = document.metadata.get("license")
    for base in bases(document):
        if repo_id_problem(base):
            continue
        held = look_up(base)
        if held is None:
            yield Fault(
                "base-model", document.path, document.line_of("base_model"), f"The base {base} is not on this Hub.",
                "Name the repo in which others find it.",
            )  # fmt: skip
        elif licence and held.get("license") and _licence(held) != _licence(document.metadata):
            yield Fault(
                "licence-mismatch", document.path, document.line_of("license"),
                f"The licence is {_licence(document.metadata)!r}, and that of the base {base} is {_licence(held)!r}.",
                "Write the base's licence, unless it lets you choose another.",
            )  # fmt: skip


def _licence(metadata: Mapping[str, Any]) -> Any:
    """The identifier of a licence, or the name of one that has none."""
    licence = metadata.get("license")
    return metadata.get("license_name") or licence if licence == "other" else licence
