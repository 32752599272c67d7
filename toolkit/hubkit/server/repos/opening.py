"""Whether libgit2 can open a repo: asked once for each state of the files that it reads for that."""

from __future__ import annotations

import os
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path

import pygit2

from hubkit.server.repos.objects import DamagedError


def opened(path: Path) -> pygit2.Repository:
    """The bare repo at ``path``. DamagedError when libgit2 cannot open it."""
    try:
        return pygit2.Repository(str(path))
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise DamagedError(f"the git folder cannot be opened: {error}") from error


def require_opening(path: Path) -> None:
    """DamagedError when libgit2 cannot open the repo at ``path``. For who writes without libgit2: it costs less."""
    if not all(os.path.isdir(f"{path}/{name}") for name in ("objects", "refs")):  # noqa: PTH112 - for each commit
        raise DamagedError("the git folder cannot be opened: a folder is missing")
    _require(path, *(_state(f"{path}/{name}") for name in ("HEAD", "config")))


@lru_cache(maxsize=4096)
def _require(path: Path, *states: Hashable) -> None:
    """As above of a repo whose files have these ``states``; what is raised is not kept."""
    opened(path).free()


def _state(path: str) -> Hashable:
    try:
        status = os.lstat(path)
    except OSError:  # libgit2 may do without
        return None
    return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
