"""Derive a release again, whatever it is: merged weights from base and adapter, or GGUF files from merged weights."""

from __future__ import annotations

from collections.abc import Callable

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.hub.client import Hub
from hubkit.publishing.manifest import is_gguf_place
from hubkit.publishing.rederiving.gguf_place import GgufRederived, rederive_gguf
from hubkit.publishing.rederiving.weights import Rederived, rederive
from hubkit.publishing.verifying import read_manifest


def rederive_any(
    source: FolderSource | RepoSource, hub: Hub, *, say: Callable[[str], None] = lambda _: None
) -> Rederived | GgufRederived:
    """Derive ``source`` again and compare it. Errors as of :func:`rederive` and :func:`rederive_gguf`."""
    content, _ = read_manifest(source)
    return rederive_gguf(source, hub, say=say) if is_gguf_place(content) else rederive(source, hub, say=say)
