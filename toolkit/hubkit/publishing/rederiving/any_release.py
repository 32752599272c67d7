"""Derive a release again, whatever it is: merged weights from base and adapter, or GGUF files from merged weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError
from hubkit.core.trees import short_list
from hubkit.hub.client import Hub
from hubkit.publishing.manifest import is_gguf_place
from hubkit.publishing.proving import ADAPTER
from hubkit.publishing.rederiving.gguf_place import GgufRederived, rederive_gguf
from hubkit.publishing.rederiving.versions import HINT
from hubkit.publishing.rederiving.weights import WEIGHTS, Rederived, rederive
from hubkit.publishing.verifying import read_manifest


def rederive_any(
    source: FolderSource | RepoSource, hub: Hub, *, say: Callable[[str], None] = lambda _: None
) -> Rederived | GgufRederived:
    """Derive ``source`` again and compare it. Errors as of :func:`rederive` and :func:`rederive_gguf`.

    ConflictError when the manifest says that there are GGUF files alone and there are weights: nobody would merge them.
    """
    content, _ = read_manifest(source)
    if not is_gguf_place(content):
        return rederive(source, hub, say=say)
    if others := [path for path in sorted(source.files()) if _is_of_weights(path)]:
        raise ConflictError(
            f"The manifest of {source.name} says that it has GGUF files alone, and it has weights:"
            f" {short_list(others)}.",
            hint=HINT,
        )
    return rederive_gguf(source, hub, say=say)


def _is_of_weights(path: str) -> bool:
    return path.startswith(f"{ADAPTER}/") or PurePosixPath(path).suffix.lower() in WEIGHTS
