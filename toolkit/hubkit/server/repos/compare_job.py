"""The child of :mod:`hubkit.server.repos.comparing`: differences and merges by libgit2, where they may take their time.

Run by ``hubkit.core.processes.child`` as a script of its own; it imports nothing of hubkit. Whatever it reads was read
by the Hub before, so that no damaged object keeps it.
"""

from __future__ import annotations

import time
from typing import Any

import pygit2
from pygit2.enums import ConfigLevel, ObjectType

_DIFF_SECONDS = 2.0


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """``{"files"}`` for a job with ``lines``, ``{"patch"}`` for ``shown``, else a merge's ``{"conflicts", "tree"}``."""
    pygit2.settings.owner_validation = False
    pygit2.settings.enable_fsync_gitdir(True)
    for level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        pygit2.settings.search_path[level] = ""
    repo = pygit2.Repository(job["path"])
    if "lines" in job:
        return _files(repo, job)
    return _diff(repo, job) if "shown" in job else _merge(repo, job)


def _files(repo: pygit2.Repository, job: dict[str, Any]) -> dict[str, Any]:
    """The hunks of each file in ``lines``, ``[head, [[sign, old number, new number, text], ...]]``, as far as they fit.

    ``old`` None is a tree without files. A file that is no text has ``binary``; one with more lines has ``cut``.
    """
    new = repo[job["new"]].peel(pygit2.Tree)
    difference = repo.diff(repo[job["old"]], new) if job["old"] else new.diff_to_tree(swap=True)
    wanted, end, left = set(job["lines"]), time.monotonic() + _DIFF_SECONDS, job["most_lines"]
    files: dict[str, Any] = {}
    for number, delta in enumerate(difference.deltas):
        path = (delta.new_file.raw_path or b"").decode("utf-8", "replace")
        if path not in wanted or left <= 0 or time.monotonic() > end:
            continue
        patch = difference[number]
        if patch is None or patch.delta.is_binary:
            files[path] = {"binary": True}
            continue
        _, added, removed = patch.line_stats
        hunks, cut = _hunks(patch, min(left, job["most_lines_each"]), job["most_characters"])
        left -= sum(len(lines) for _, lines in hunks)
        files[path] = {"hunks": hunks, "cut": cut, "added": added, "removed": removed}
    return {"files": files}


def _hunks(patch: pygit2.Patch, most: int, characters: int) -> tuple[list[Any], bool]:
    hunks: list[Any] = []
    for hunk in patch.hunks:
        lines: list[Any] = []
        for line in hunk.lines:
            if most <= 0:
                return [*hunks, [hunk.header.strip(), lines]], True
            most -= 1
            text = line.raw_content.decode("utf-8", "replace").rstrip("\r\n")
            text = text if len(text) <= characters else f"{text[:characters]}…"
            lines.append([line.origin, line.old_lineno, line.new_lineno, text])
        hunks.append([hunk.header.strip(), lines])
    return hunks, False


def _diff(repo: pygit2.Repository, job: dict[str, Any]) -> dict[str, Any]:
    """The patches of the files in ``shown``; of others the sentence in ``notes``. Ends early when time is up."""
    old, new = (repo[tree] for tree in (job["old"], job["new"]))
    assert old.type == new.type == ObjectType.TREE
    difference, shown, notes = repo.diff(old, new), set(job["shown"]), job["notes"]
    parts, left, end = [], job["most"], time.monotonic() + _DIFF_SECONDS
    for number, delta in enumerate(difference.deltas):
        path = (delta.new_file.raw_path or b"").decode("utf-8", "replace")
        text = None
        if path in shown and left > 0 and time.monotonic() < end:
            patch = difference[number]
            text = patch.text if patch else None
        if text is None or len(text) > left:
            note = notes.get(path, "not shown: the whole difference is too large")
            text = f"diff --git a/{path} b/{path}\n{note}\n"
        left -= len(text)
        parts.append(text)
        if left < -job["most"]:
            parts.append("More files differ; they are not listed.\n")
            break
    return {"patch": "".join(parts)}


def _merge(repo: pygit2.Repository, job: dict[str, Any]) -> dict[str, Any]:
    if job["incoming"]:  # as hubkit.server.repos.quarantine does: no ref leads to the tree yet
        odb = pygit2.Odb(job["incoming"])
        odb.add_disk_alternate(f"{job['path']}/objects")
        repo.set_odb(odb)
    fork = job["fork"] or str(repo.TreeBuilder().write())
    index = repo.merge_trees(*(repo[tree].peel(pygit2.Tree) for tree in (fork, job["ours"], job["theirs"])))
    sides = (next(side for side in conflict if side) for conflict in index.conflicts or ())
    paths = sorted({side.path for side in sides})
    return {"conflicts": paths, "tree": None if paths or not job["write"] else str(index.write_tree(repo))}
