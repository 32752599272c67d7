"""GGUF files when a branch is promoted or rolled back: what is refused, and what is left behind."""

from __future__ import annotations

from collections.abc import Mapping

from hubkit.core.errors import RefusedError
from hubkit.core.trees import Tree
from hubkit.hub.client import Hub
from hubkit.publishing.gguf_origins import written_from
from hubkit.publishing.manifest import is_gguf_place, provenance_at


def refuse_other_kind(hub: Hub, repo: str, branch: str, source: str, head: str) -> None:
    """RefusedError when GGUF files alone would replace a variant's weights on ``branch``, or the other way round.

    ``source`` and ``head`` are commits; one without a manifest of hubkit may be anything.
    """
    kinds = []
    for commit in (source, head):
        found = provenance_at(hub, repo, commit, hub.tree(repo, commit))
        if found is None:
            return
        kinds.append(is_gguf_place(found.content))
    if kinds[0] != kinds[1]:
        what, instead = ("GGUF files alone", "weights") if kinds[0] else ("weights", "GGUF files alone")
        raise RefusedError(
            f"{source[:12]} of {repo} has {what}, and the branch {branch!r} has {instead}: who loads it from there"
            " could not any more.",
            hint="Promote it to another branch, or use --force.",
        )


def left_behind(hub: Hub, repo: str, branch: str, tree: Tree) -> tuple[str, ...]:
    """Where GGUF files were written from other weights than ``branch`` has with ``tree``.

    The names of branches of ``repo``, and of a repo of their own.
    """
    found = []
    for (there, name), weights in written_from(hub, repo, branch):
        files = weights.get("files")
        digests = files.items() if isinstance(files, Mapping) else ()
        # Of a file outside LFS the Hub lists no sha256: the weights themselves decide.
        if any(path not in tree or tree[path].sha256 not in (None, digest) for path, digest in digests):
            found.append(name if there == repo else there)
    return tuple(found)
