"""A place that has GGUF files alone, written again from the weights that its manifest names, and compared.

The manifest names the repo and branch of the weights and the sha256 of each of their files. The branch may have moved
on since: the newest of its commits that holds exactly these files is read. Whether the weights themselves are the
adapter on its base is asked at that repo (:mod:`hubkit.publishing.rederiving.weights`).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Manifest
from hubkit.core.names import path_problem, ref_problem, repo_id_problem
from hubkit.core.numbers import short_commit
from hubkit.core.trees import Tree, short_list
from hubkit.hub.client import Hub
from hubkit.models.gguf.library import gguf_library
from hubkit.publishing.bundle import WEIGHT_FILES
from hubkit.publishing.gguf_bundle import LIBRARIES
from hubkit.publishing.proving import held
from hubkit.publishing.rederiving.gguf import GGUF_FILES, GgufAgain, gguf_again, is_gguf
from hubkit.publishing.rederiving.versions import HINT, Version, versions_of
from hubkit.publishing.verifying import read_manifest
from hubkit.recipe.names import MAIN

MOST_COMMITS = 200
"""Commits of the branch of the weights that are looked at, newest first."""
_WITHOUT = "Without --rederive the files are compared with the manifest."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class GgufRederived:
    """What came out: the weights at ``commit`` of ``repo``, and each file written again from them."""

    repo: str
    commit: str
    gguf: tuple[GgufAgain, ...]
    versions: tuple[Version, ...]

    @property
    def unchecked(self) -> tuple[str, ...]:
        """The files that could not be compared."""
        return tuple(item.path for item in self.gguf if item.not_compared)

    @property
    def equal(self) -> bool:
        """Whether every file was compared, and every byte is the same."""
        return not self.count and not self.unchecked

    @property
    def only_bits(self) -> bool:
        """Whether another version of a library may have made the difference."""
        return True

    @property
    def claim(self) -> str:
        """What the release is, if it is equal."""
        return f"written from the weights of {self.repo}@{short_commit(self.commit)}"

    @property
    def instead(self) -> str:
        """What else can be asked where versions differ."""
        return ""

    @property
    def count(self) -> int:
        """How many differences there are."""
        return sum(len(item.differences) for item in self.gguf)

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        versions = {item.name: {"release": item.then, "here": item.now} for item in self.versions}
        return {**asdict(self), "versions": versions, "unchecked": list(self.unchecked), "equal": self.equal}


def rederive_gguf(
    source: FolderSource | RepoSource, hub: Hub, *, say: Callable[[str], None] = lambda _: None
) -> GgufRederived:
    """Write the GGUF files of ``source`` again from the weights that its manifest names, read from ``hub``.

    ``source`` must be what its manifest lists (:func:`hubkit.publishing.verifying.verify`); a GGUF file that it does
    not list is a difference. ConflictError when no commit of that branch holds these weights; RefusedError when the
    manifest does not name them, or no file could be written again; UsageError when the library is missing.
    """
    content, manifest = read_manifest(source)
    gguf_library()
    repo, branch, files = _weights(content, source.name)
    commit = _commit_with(hub, repo, branch, files)
    say(f"reading {repo}@{short_commit(commit)}")
    paths = [path for path in manifest.files if is_gguf(path)]
    folder = source.folder if isinstance(source, FolderSource) else held(hub, source.repo, source.commit, (GGUF_FILES,))
    cached = held(hub, repo, commit, tuple(files))
    with tempfile.TemporaryDirectory(prefix="hubkit-rederive-") as scratch:
        weights = _alone(cached, files, Path(scratch) / "weights")
        again = tuple(_again(weights, folder / path, Path(scratch), path) for path in paths)
    made = content.get("made_by")
    then = made if isinstance(made, Mapping) else {}
    if all(item.not_compared for item in again):
        reason = again[0].not_compared if again else "it lists none"
        raise RefusedError(f"No GGUF file of {source.name} could be written again: {reason}.", hint=_WITHOUT)
    return GgufRederived(repo, commit, (*again, *_unlisted(source, manifest)), tuple(versions_of(then, LIBRARIES)))


def _unlisted(source: FolderSource | RepoSource, manifest: Manifest) -> Iterator[GgufAgain]:
    """GGUF files that are no part of the release: who downloads one from there takes it for one."""
    for path, entry in sorted(source.files().items()):
        if is_gguf(path) and path not in manifest.files:
            yield GgufAgain(path, None, entry.size, ("it is not in the manifest",))


def _again(weights: Path, there: Path, scratch: Path, path: str) -> GgufAgain:
    """:func:`gguf_again` of weights that may be anything, so that transformers may fail at them in any way."""
    try:
        return gguf_again(weights, there, scratch, path)
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return GgufAgain(path, None, there.stat().st_size, not_compared=f"the weights cannot be read: {reason}")


def _alone(cached: Path, files: Iterable[str], into: Path) -> Path:
    """The folder ``into`` with links to these files of ``cached``: the cache may hold more of the commit."""
    for path in files:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).symlink_to((cached / path).resolve())
    return into


def _weights(content: Mapping[str, Any], name: str) -> tuple[str, str, dict[str, str]]:
    """The repo, the branch and the files of the weights. They may come from anybody."""
    gguf = content.get("gguf")
    named = gguf.get("weights") if isinstance(gguf, Mapping) else None
    if isinstance(named, Mapping):
        repo, branch, files = named.get("repo"), named.get("branch", MAIN), named.get("files")
        if (
            isinstance(repo, str) and not repo_id_problem(repo)
            and isinstance(branch, str) and not ref_problem(branch)
            and isinstance(files, Mapping) and "config.json" in files
            and all(_is_of_weights(path) and _is_digest(digest) for path, digest in files.items())
        ):  # fmt: skip
            return repo, branch, dict(files)
    raise RefusedError(
        f"The manifest of {name} does not say from which weights its GGUF files were written.",
        hint=_WITHOUT,
    )


def _is_of_weights(path: Any) -> bool:
    """Whether ``path`` is a file that a GGUF file may be written from: no other is downloaded."""
    return (
        isinstance(path, str)
        and not path_problem(path)
        and not set(path) & set("*?[")  # it is a pattern of what is downloaded
        and any(fnmatchcase(path, pattern) for pattern in WEIGHT_FILES)
    )


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _commit_with(hub: Hub, repo: str, branch: str, files: Mapping[str, str]) -> str:
    """The newest commit of the branch that holds ``files``, paths and their sha256, and no other file of weights.

    RefusedError when the repo cannot be read.
    """
    if not hub.repo_exists(repo):
        raise RefusedError(
            f"{repo}, which the GGUF files were written from, is not on {hub.endpoint}, or you cannot see it.",
            hint="If it is private, log in with a token that may read it.",
        )
    for item in hub.history(repo, branch)[:MOST_COMMITS] if hub.head(repo, branch) else []:
        tree = hub.tree(repo, item.id)
        if not _holds(hub, repo, item.id, tree, files):
            continue
        # Without its template, say, the model writes a file that answers otherwise, and equals itself.
        if others := [path for path in sorted(tree) if _is_of_weights(path) and path not in files]:
            raise ConflictError(
                f"The GGUF files were written from a part of the weights: {repo}@{short_commit(item.id)} has"
                f" {short_list(others)}, too.",
                hint=HINT,
            )
        return item.id
    raise ConflictError(
        f"No commit of the branch {branch!r} of {repo} holds the weights that the GGUF files were written from.",
        hint=f"Inspect it with `hubkit revisions history {repo} {branch}`; ask the publisher where the weights are.",
    )


def _holds(hub: Hub, repo: str, commit: str, tree: Tree, files: Mapping[str, str]) -> bool:
    """Whether ``tree``, that of ``commit``, has ``files``. Those outside LFS are read, for their sha256."""
    large = {path: tree[path].sha256 for path in files if path in tree}
    if large.keys() != files.keys() or any(found not in (None, files[path]) for path, found in large.items()):
        return False
    small = {path: tree[path] for path, found in large.items() if found is None}
    content = hub.read_files(repo, commit, small)
    return all(hashlib.sha256(content[path]).hexdigest() == files[path] for path in small)
