"""Read back what the Hub holds and compare it with the manifest: first its listing, then every byte."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hubkit.core.errors import ConflictError
from hubkit.core.files import Digests, Manifest, digests, os_error
from hubkit.core.numbers import short_commit
from hubkit.core.trees import compare, entry_of, short_list, tree_of
from hubkit.hub.client import Hub
from hubkit.hub.errors import DamagedRepoError, MissingFileError
from hubkit.publishing.ownership import part_of

_RETRY = (
    "No released branch was changed by this step. Run the same command again. If it fails again, the Hub or a proxy"
    " alters files."
)


def verify_listing(hub: Hub, repo: str, revision: str, manifest: Manifest, *, others_allowed: bool = False) -> None:
    """ConflictError, naming the files, unless the Hub lists at ``revision`` every path, size and digest promised.

    With ``others_allowed`` the revision may have other files too.
    """
    wanted, tree = tree_of(manifest), hub.tree(repo, revision)
    difference = compare(wanted, part_of(tree, wanted) if others_allowed else tree)
    if difference:
        raise ConflictError(
            f"{repo}@{short_commit(revision)} does not hold what was uploaded: "
            + short_list([change.sentence for change in difference.changes])
            + ".",
            hint=_RETRY,
        )


def verify_bytes(hub: Hub, repo: str, revision: str, manifest: Manifest, cache: Path) -> Path:
    """Download every file of ``revision`` to ``cache`` and hash it; returns the folder with the files.

    A Hub lists the digests that it received with an upload. Only this shows that it still has the bytes. ConflictError
    names the files that differ.
    """
    folder = _download(hub, repo, revision, cache)
    wrong = []
    for path, promised in sorted(manifest.files.items()):
        local = folder / path
        if not local.is_file():
            wrong.append(f"{path} is missing")
        elif not _same(digests(local.resolve()), promised):
            wrong.append(f"{path} has other content")
    if wrong:
        raise _damaged(repo, revision, short_list(wrong))
    return folder


def verify_held(hub: Hub, repo: str, commit: str, folder: Path, patterns: Sequence[str]) -> None:
    """Hash the files of ``repo`` at ``commit`` that this machine holds in ``folder``, and compare them with the Hub's.

    Only those that match ``patterns`` are read: a cache may hold more.

    ConflictError names those that differ: the cache was damaged or changed since the download.
    """
    listed = hub.tree(repo, commit)
    held = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    wrong = [
        name
        for name, path in held.items()
        if name in listed
        and any(fnmatchcase(name, pattern) for pattern in patterns)
        and not entry_of(digests(path.resolve())).same(listed[name])
    ]
    if wrong:
        raise ConflictError(
            f"The copy of {repo}@{short_commit(commit)} on this machine differs from the Hub's: {short_list(wrong)}.",
            hint=f"Remove {folder} and the files that it links to, then run `hubkit release --fresh`.",
        )


def _download(hub: Hub, repo: str, revision: str, cache: Path) -> Path:
    try:
        return hub.download(repo, revision, cache=cache)
    except MissingFileError as error:
        raise _damaged(repo, revision, "a file that it lists is missing") from error
    except DamagedRepoError as error:
        raise _damaged(repo, revision, "the Hub says that its copy of a file is damaged") from error
    except OSError as error:
        if error.errno is not None:
            raise os_error(error, cache) from error
        # The client compares the sizes and raises an OSError that has no number and no class of its own.
        raise _damaged(repo, revision, "a file does not have the listed size") from error


def _damaged(repo: str, revision: str, what: str) -> ConflictError:
    return ConflictError(
        f"{repo}@{short_commit(revision)} returned different bytes than were uploaded: {what}.",
        hint=_RETRY,
    )


def _same(actual: Digests, promised: Digests) -> bool:
    return (actual.size, actual.sha256) == (promised.size, promised.sha256)
