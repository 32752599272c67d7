"""A LoRA adapter: are its weights there, and can others find the base that it was trained on?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hubkit.checks.rules import ADAPTER_BASE, ADAPTER_REVISION, ADAPTER_WEIGHTS
from hubkit.checks.source import Source
from hubkit.core.findings import Finding
from hubkit.core.names import named_repo_problem

ADAPTER_CONFIG = "adapter_config.json"


def configs_in(files: Collection[str]) -> list[str]:
    """The adapters' configs among ``files``: at the root, and in a folder of it."""
    return sorted(name for name in files if name.rpartition("/")[2] == ADAPTER_CONFIG and name.count("/") <= 1)


def find(source: Source, path: str, settings: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the adapter whose config ``path`` holds ``settings``; ``card`` is the front matter."""
    weights = path.replace(ADAPTER_CONFIG, "adapter_model.safetensors")
    if weights not in source.files() and weights.replace(".safetensors", ".bin") not in source.files():
        yield ADAPTER_WEIGHTS.finding(
            f"{path}: {weights} is missing in the same folder.", "Upload the adapter's weights.", file=path
        )
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        hint = "Set base_model_name_or_path to a repo id."
        yield ADAPTER_BASE.finding(f"{path} names no base model.", hint, file=path)
        return
    if problem := named_repo_problem(base):
        yield ADAPTER_BASE.finding(
            f"{path}: base_model_name_or_path {base!r} cannot be resolved by others: {problem}.",
            "Set base_model_name_or_path to the repo id of the base, and revision to its commit.",
            file=path,
        )
        return
    if not revision:
        yield ADAPTER_REVISION.finding(
            f"{path} pins no revision of {base}: after a new commit there, the adapter is loaded on other weights.",
            "Set revision to the commit of the base that the adapter was trained on.",
            file=path,
        )
    yield from _base_elsewhere(source, path, base, revision, card)


def _base_elsewhere(
    source: Source, path: str, base: str, revision: str | None, card: Mapping[str, Any]
) -> Iterator[Finding]:
    """Findings about the base from the card and the Hub."""
    named = card.get("base_model")
    if named and base not in (named if isinstance(named, list) else [named]):
        yield ADAPTER_BASE.finding(
            f"{path} names the base {base}, but the card names {named}.", level="note", file=path
        )
    there = source.other(base, revision)
    if there is not None and not there:
        message = f"The base {base} of {path} is not on this Hub at {revision or 'main'}."
        yield ADAPTER_BASE.finding(message, file=path)
    elif there and "config.json" not in there and ADAPTER_CONFIG in there:
        yield ADAPTER_BASE.finding(
            f"{path}: the base {base} is itself an adapter. "
            f"Loading this adapter on {base}'s base model uses the wrong weights.",
            "Merge the chain into one adapter, or set the merged model as the base.",
            file=path,
        )
