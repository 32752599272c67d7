"""What the pages show, taken from repos: nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import DeltaStatus

from hubkit.server.database import stamp
from hubkit.server.git import HIDDEN_PREFIX, Git, moment, title_and_rest
from hubkit.server.http import Call, Refusal
from hubkit.server.info import repo_info
from hubkit.server.pages import side
from hubkit.server.pages.markup import Place
from hubkit.server.routes.common import need_commit, need_files, repo_type
from hubkit.server.store import Repo, RepoType

_REFS = 500
_CHANGES = 300
_PLURALS = {"model": "Models", "dataset": "Datasets", "space": "Spaces"}
_STATUS = {DeltaStatus.ADDED: "added", DeltaStatus.DELETED: "removed", DeltaStatus.MODIFIED: "changed"}


@dataclass
class Seen:
    """A repo at a revision, for one who may see it. ``commit`` is None in a repo that has none."""

    call: Call
    repo: Repo
    git: Git
    path: Path
    revision: str
    commit: str | None

    @property
    def web(self) -> str:
        """The address of the repo's first page."""
        return f"/{self.repo.web}"

    @property
    def place(self) -> Place:
        """Where its card stands."""
        return Place(self.web, self.revision)

    @property
    def member(self) -> bool:
        """Whether the reader belongs to the namespace: such a one sees a Space's log."""
        return self.call.hub.accounts.role_in(self.call.actor, self.repo.namespace) is not None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the API tells about the repo at this commit."""
        return repo_info(self.repo, self.git, self.path, self.commit)

    def need(self) -> str:
        """The commit; 404 in a repo that has none."""
        if self.commit is None:
            raise Refusal(404, "This repository has no commits yet.", "RevisionNotFound")
        return self.commit


def see(call: Call, revision: str = "main", *, files: bool = True) -> Seen:
    """The repo of an address at a revision, or a Refusal: 404 also for what the reader may not know of.

    A repo that was moved leads to its new address. ``files``: the files are shown, so gates hold.
    """
    params = call.params
    kind = repo_type(params["kind"])
    asked = f"{params['ns']}/{params['name']}"
    repo = call.hub.store.find(kind, asked)
    if repo is None or not call.hub.store.readable(repo, call.actor):
        raise Refusal(404, "Repository not found", "RepoNotFound")
    if repo.id != asked:
        parts = call.request.scope["path"].split("/")
        rest = "".join(f"/{part}" for part in parts[3 if kind == "model" else 4 :])
        query = f"?{call.request.url.query}" if call.request.url.query else ""
        raise Refusal(307, "This repository has moved.", headers={"Location": f"/{repo.web}{rest}{query}"})
    if files:
        need_files(call, repo)
    git = call.hub.store.git(repo)
    commit = git.resolve("main") if revision == "main" else need_commit(git, revision)
    return Seen(call, repo, git, call.hub.store.path(repo), revision, commit)


Link = Callable[[str, str], str]
"""From a revision's name and commit to the address that shows the same of it."""


def revisions(seen: Seen, link: Link) -> dict[str, Any]:
    """The menu of revisions: ``main`` first, then the other branches, then the tags; pull requests are elsewhere."""
    groups: dict[str, list[dict[str, Any]]] = {"Branches": [], "Tags": []}
    kind = "commit" if seen.commit and seen.commit.startswith(seen.revision) else "ref"
    kind = "pull request" if seen.revision.startswith(HIDDEN_PREFIX) else kind
    refs = sorted((ref, commit) for ref, commit in seen.git.refs() if ref.startswith(("refs/heads/", "refs/tags/")))
    for ref, commit in refs[:_REFS]:
        _, family, name = ref.split("/", 2)
        branch = family == "heads"
        # A branch hides a tag of its name; the full name reaches it.
        hidden = not branch and seen.git.target(f"refs/heads/{name}") is not None
        asked = ref if hidden else name
        current = asked == seen.revision
        kind = ("branch" if branch else "tag") if current else kind
        item = {"name": name, "href": link(asked, commit), "current": current, "commit": commit}
        groups["Branches" if branch else "Tags"].append(item)
    groups["Branches"].sort(key=lambda item: item["name"] != "main")
    shown = seen.revision[:12] if kind == "commit" and seen.revision == seen.commit else seen.revision
    return {"name": shown, "kind": kind, "groups": groups, "more": max(0, len(refs) - _REFS)}


def commit_row(item: pygit2.Commit) -> dict[str, str]:
    """A commit as lists show it."""
    title, message = title_and_rest(item.message)
    title = title if len(title) <= 200 else title[:199] + "…"
    return {
        "id": str(item.id), "title": title or "(no message)", "message": message, "author": item.author.name,
        "date": stamp(moment(item)),
    }  # fmt: skip


def changes(git: Git, item: pygit2.Commit) -> tuple[list[dict[str, str]], int]:
    """The paths that a commit changed against its first parent (at most 300), and how many there are."""
    tree = item.tree
    diff = tree.diff_to_tree(item.parents[0].tree, swap=True) if item.parents else tree.diff_to_tree(swap=True)
    found, total = [], 0
    for delta in diff.deltas:
        total += 1
        if total <= _CHANGES:
            # A tree may hold a name that is no UTF-8.
            path = (delta.new_file.raw_path or b"").decode("utf-8", "replace")
            found.append({"path": path, "status": _STATUS.get(delta.status, "changed")})
    return found, total


def folder(seen: Seen, path: str) -> list[dict[str, Any]]:
    """The entries of a folder, folders first; 404 when there is no such folder."""
    entries = seen.git.walk(seen.need(), path, recursive=False)
    if entries is None:
        raise Refusal(404, f"There is no folder {path!r} at {seen.revision!r}.", "EntryNotFound")
    found = [
        {"path": entry.path, "name": entry.path.rpartition("/")[2], "folder": entry.folder, "size": entry.size,
         "sha256": entry.pointer.oid if entry.pointer else None,
         "there": bool(entry.pointer and seen.call.hub.objects.has(seen.repo.uid, entry.pointer.oid))}
        for entry in entries
    ]  # fmt: skip
    return sorted(found, key=lambda item: (not item["folder"], item["name"].lower()))


def crumbs(path: str) -> list[tuple[str, str]]:
    """``a/b/c`` as (name, path) pairs: ``("a", "a"), ("b", "a/b"), ("c", "a/b/c")``."""
    parts = path.split("/") if path else []
    return [(part, "/".join(parts[: place + 1])) for place, part in enumerate(parts)]


# Lists ------------------------------------------------------------------------------------------------------


def repo_rows(
    call: Call, kinds: tuple[RepoType, ...], *, search: str = "", tags: tuple[str, ...] = (), namespace: str = ""
) -> list[dict[str, Any]]:
    """The repos that the reader may see, the last changed first; ``search`` in the id, all of ``tags``."""
    store, found = call.hub.store, []
    words = search.lower().split()
    for kind in kinds:
        for repo in store.all(kind):
            if namespace and repo.namespace.lower() != namespace.lower():
                continue
            if not all(word in repo.id.lower() for word in words) or not store.readable(repo, call.actor):
                continue
            git = store.git(repo)
            info = repo_info(repo, git, store.path(repo), git.resolve("main"))
            if set(tags) <= {*info["tags"], info.get("sdk")}:
                found.append(_repo_row(call, repo, info))
    return sorted(found, key=lambda row: (row["changed"], row["id"]), reverse=True)


def _repo_row(call: Call, repo: Repo, info: dict[str, Any]) -> dict[str, Any]:
    card = info["cardData"] or {}
    title = card.get("title") if repo.type == "space" else None
    return {
        "href": f"/{repo.web}", "id": repo.id, "type": repo.type, "private": repo.private, "gated": bool(repo.gated),
        "changed": info["lastModified"], "chips": side.chips(info)[:4], "info": info,
        "title": side.shortened(title) if isinstance(title, str) else "",
        "stage": call.hub.spaces.stage(repo) if repo.type == "space" else "",
    }  # fmt: skip


def neighbours(seen: Seen) -> list[dict[str, Any]]:
    """The repos of this Hub that a repo names, and those that name it: ``{title, links}``."""
    call, store = seen.call, seen.call.hub.store

    def address(kind: str, name: str) -> str | None:
        repo = store.find(kind, name)
        return f"/{repo.web}" if repo and store.readable(repo, call.actor) else None

    groups = side.sources(seen.info, address)
    if seen.repo.type == "model":
        models = repo_rows(call, ("model",))
        groups += side.derived(seen.repo.id, [(row["href"], row["info"]) for row in models])
        name = seen.repo.id.lower()
        spaces = [
            {"text": row["id"], "href": row["href"], "stage": row["stage"]}
            for row in repo_rows(call, ("space",))
            if name in {used.lower() for used in side.listed(row["info"]["cardData"] or {}, "models")}
        ]
        groups += [{"title": "Spaces using this model", "links": spaces}] if spaces else []
    return groups


def kind_title(kind: str) -> str:
    """``model`` to ``Models``."""
    return _PLURALS[kind]
