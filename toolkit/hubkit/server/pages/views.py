"""The values that pages show, read from repos. No HTML here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from hubkit.core import numbers
from hubkit.server.http.access import repo_type, require_read, visible_repo
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import require_commit
from hubkit.server.pages import card_facts, usage
from hubkit.server.pages.markup import MENTION, Place
from hubkit.server.pages.usage import Snippet
from hubkit.server.repos.collections import Collection
from hubkit.server.repos.git import HIDDEN_PREFIX, MAIN, Commit, Git, split_message
from hubkit.server.repos.info import repo_info
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.store import Repo, RepoType
from hubkit.server.storage.database import stamp

_PLAIN_ROW = {
    "private": False, "gated": False, "damaged": False, "changed": "", "chips": [], "title": "", "stage": "",
}  # fmt: skip
"""What a row of a list has, of an item that is no repo."""
_REFS = 500
_MENTIONS, _MENTIONS_IN = 50, 2**16
"""Accounts that one page of comments may mention, and the characters of a comment in which they are looked for."""
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors")
"""The file whose tensors a model's page leads to: the first of these that it has."""
_PLURALS = {"model": "Models", "dataset": "Datasets", "space": "Spaces"}


@dataclass
class RepoView:
    """A repo at a revision, which the reader may see."""

    request: Request
    repo: Repo
    git: Git
    path: Path
    revision: str
    commit: str

    @property
    def web(self) -> str:
        """The address of the repo's first page."""
        return f"/{self.repo.web}"

    @property
    def place(self) -> Place:
        """The base of the relative links in its card."""
        return Place(self.web, self.revision)

    @property
    def open(self) -> bool:
        """Whether the reader may read the files."""
        return self.request.hub.permissions.may_read(self.request.actor, self.repo)

    @property
    def member(self) -> bool:
        """Whether the reader may read the log of the Space."""
        return self.request.hub.permissions.may_inspect(self.request.actor, self.repo)

    @cached_property
    def info(self) -> dict[str, Any]:
        """The info of the repo at this commit, as the API returns it."""
        return repo_info(self.repo, self.request.hub.facts.at(self.repo, self.git, self.commit))


def open_repo(request: Request, revision: str = "main", *, files: bool = True) -> RepoView:
    """The repo that the path names at a revision; 404 when there is none that the reader may know of.

    A repo that was moved is redirected to its new address. ``files``: the page shows files, so a gated repo is refused.
    """
    params = request.path_params
    kind = repo_type(params["kind"])
    repo_id = f"{params['ns']}/{params['name']}"
    repo = visible_repo(request, kind, repo_id)
    if repo is None:
        raise HTTPException(404, "Repository not found", "RepoNotFound")
    if repo.id != repo_id:
        parts = request.scope["path"].split("/")
        rest = "".join(f"/{part}" for part in parts[3 if kind == "model" else 4 :])
        query = f"?{request.url.query}" if request.url.query else ""
        raise HTTPException(307, "This repository has moved.", headers={"Location": f"/{repo.web}{rest}{query}"})
    if files:
        require_read(request, repo)
    git = request.hub.store.git(repo)
    commit = require_commit(git, revision)
    return RepoView(request, repo, git, request.hub.store.path(repo), revision, commit)


Link = Callable[[str, str], str]
"""From a revision's name and commit to the address that shows the same of it."""


def revisions(view: RepoView, link: Link) -> dict[str, Any]:
    """The menu of revisions: ``main`` first, then the other branches, then the tags; no pull requests."""
    groups: dict[str, list[dict[str, Any]]] = {"Branches": [], "Tags": []}
    kind = "commit" if view.commit.startswith(view.revision) else "ref"
    kind = "pull request" if view.revision.startswith(HIDDEN_PREFIX) else kind
    damaged: list[DamagedError] = []  # left out; the others are shown
    # Of a gated repo, whoever may not read it sees the card of main and no other revision.
    listed = [item for item in view.git.refs(damaged=damaged.append) if view.open or item[0] == MAIN]
    refs = sorted((ref, commit) for ref, commit in listed if ref.startswith(("refs/heads/", "refs/tags/")))
    branches = {ref for ref, _ in refs}
    for ref, commit in refs[:_REFS]:
        _, family, name = ref.split("/", 2)
        branch = family == "heads"
        # A branch hides a tag of its name; the full name reaches it.
        hidden = not branch and f"refs/heads/{name}" in branches
        revision = ref if hidden else name
        current = revision == view.revision
        kind = ("branch" if branch else "tag") if current else kind
        item = {"name": name, "href": link(revision, commit), "current": current, "commit": commit}
        groups["Branches" if branch else "Tags"].append(item)
    groups["Branches"].sort(key=lambda item: item["name"] != "main")
    full_commit = kind == "commit" and view.revision == view.commit
    name = numbers.short_commit(view.commit) if full_commit else view.revision
    return {"name": name, "kind": kind, "groups": groups, "more": max(0, len(refs) - _REFS)}


def commit_row(item: Commit) -> dict[str, str]:
    """A commit as lists show it."""
    title, message = split_message(item.message)
    title = title if len(title) <= 200 else title[:199] + "…"
    return {
        "id": item.id, "title": title or "(no message)", "message": message, "author": item.author,
        "date": stamp(item.time),
    }  # fmt: skip


def ways_to_use(view: RepoView) -> list[Snippet]:
    """The code with which a repo is used at this revision; none for who may not read its files."""
    if not view.open:
        return []
    hub, files = view.request.hub, view.request.hub.facts.files(view.repo, view.git, view.commit)
    runs = view.repo.type == "space" and hub.spaces.stage(view.repo) == "RUNNING"
    facts = usage.Facts(
        view.repo.id, view.repo.type, view.revision, view.request.origin, files, view.info,
        chat="chat_template.jinja" in files or "chat_template" in _settings(view, "tokenizer_config.json"),
        app=hub.spaces.host(view.repo) if runs else None,
    )  # fmt: skip
    if view.repo.type == "model" and facts.adapter_folder is not None:
        facts = replace(facts, adapter=_settings(view, f"{facts.adapter_folder}/adapter_config.json".lstrip("/")))
        facts = replace(facts, base_here=bool(facts.base and address(view.request, "model", facts.base)))
    return usage.snippets(facts)


def _settings(view: RepoView, path: str) -> dict[str, Any]:
    entry = view.git.entry(view.commit, path)
    if entry is None or entry.folder or entry.pointer:
        return {}
    return usage.settings(view.git.blob(entry.oid))


def weights_of(view: RepoView) -> str | None:
    """The path of the file whose tensors a model's page leads to, or None."""
    entries = ((path, view.git.entry(view.commit, path)) for path in _WEIGHTS)
    return next((path for path, entry in entries if entry and not entry.folder), None)


def folder(view: RepoView, path: str) -> list[dict[str, Any]]:
    """The entries of a folder, folders first; 404 when there is no such folder."""
    entries = view.git.walk(view.commit, path, recursive=False)
    if entries is None:
        raise HTTPException(404, f"There is no folder {path!r} at {view.revision!r}.", "EntryNotFound")
    rows = [
        {"path": entry.path, "name": entry.path.rpartition("/")[2], "folder": entry.folder, "size": entry.size,
         "sha256": entry.pointer.oid if entry.pointer else None,
         "there": bool(entry.pointer and view.request.hub.lfs.has(view.repo.uid, entry.pointer.oid))}
        for entry in entries
    ]  # fmt: skip
    return sorted(rows, key=lambda item: (not item["folder"], item["name"].lower()))


def crumbs(path: str) -> list[tuple[str, str]]:
    """``a/b/c`` as (name, path) pairs: ``("a", "a"), ("b", "a/b"), ("c", "a/b/c")``."""
    parts = path.split("/") if path else []
    return [(part, "/".join(parts[: place + 1])) for place, part in enumerate(parts)]


def mentioned(request: Request, texts: Iterable[str]) -> dict[str, str]:
    """The accounts of this Hub that comments name, by their lower case."""
    words = dict.fromkeys(match[1].lower() for text in texts for match in MENTION.finditer(text[:_MENTIONS_IN]))
    accounts = (request.hub.accounts.find(word) for word in islice(words, _MENTIONS))
    return {account.name.lower(): account.name for account in accounts if account}


# Lists ------------------------------------------------------------------------------------------------------


def repo_rows(
    request: Request, kinds: tuple[RepoType, ...], *, search: str = "", tags: tuple[str, ...] = (), namespace: str = ""
) -> list[dict[str, Any]]:
    """The repos that the reader may see, the last changed first; ``search`` in the id, all of ``tags``."""
    store, may_see, rows = request.hub.store, request.hub.permissions.may_see, []
    words = search.lower().split()
    for kind in kinds:
        for repo in store.all(kind):
            if namespace and repo.namespace.lower() != namespace.lower():
                continue
            if not all(word in repo.id.lower() for word in words) or not may_see(request.actor, repo):
                continue
            info = repo_info(repo, request.hub.head_facts(repo))
            if set(tags) <= {*info["tags"], info.get("sdk")}:
                rows.append(_repo_row(request, repo, info))
    return sorted(rows, key=lambda row: (row["changed"], row["id"]), reverse=True)


def _repo_row(request: Request, repo: Repo, info: dict[str, Any]) -> dict[str, Any]:
    card = info["cardData"] or {}
    title = card.get("title") if repo.type == "space" else None
    return {
        "href": f"/{repo.web}", "id": repo.id, "type": repo.type, "note": "",
        "private": repo.private, "gated": bool(repo.gated), "damaged": bool(info.get("damaged")),
        "changed": info["lastModified"], "chips": card_facts.chips(info)[:4], "info": info,
        "title": card_facts.shortened(title) if isinstance(title, str) else "",
        "stage": request.hub.spaces.stage(repo) if repo.type == "space" else "",
    }  # fmt: skip


def address(request: Request, kind: RepoType, name: str) -> str | None:
    """The address of a repo of this Hub that the reader may see; None when there is none."""
    repo = visible_repo(request, kind, name)
    return f"/{repo.web}" if repo else None


def related_repos(view: RepoView) -> list[dict[str, Any]]:
    """Links to the repos that a repo names in its card, and to those that name it: ``{title, links}``."""
    request = view.request
    groups = card_facts.sources(view.info, partial(address, request))
    held = request.hub.collections.holding(view.repo.type, view.repo.id)
    collections = [
        {"text": item.title, "href": f"/collections/{item.slug}"}
        for item in held
        if request.hub.permissions.may_see_collection(request.actor, item)
    ]
    if view.repo.type == "model":
        models = repo_rows(request, ("model",))
        groups += card_facts.derived(view.repo.id, [(row["href"], row["info"]) for row in models])
        name = view.repo.id.lower()
        spaces = [
            {"text": row["id"], "href": row["href"], "stage": row["stage"]}
            for row in repo_rows(request, ("space",))
            if name in {used.lower() for used in card_facts.listed(row["info"]["cardData"] or {}, "models")}
        ]
        groups += [{"title": "Spaces using this model", "links": spaces}] if spaces else []
    if collections:
        kind = "Space" if view.repo.type == "space" else view.repo.type
        groups.append({"title": f"Collections including this {kind}", "links": collections})
    return groups


def collection_rows(request: Request, collection: Collection) -> list[dict[str, Any]]:
    """The items of a collection that the reader may see: rows of repos, or ``{href, id}``, each with its note."""
    rows: list[dict[str, Any]] = []
    for item in request.hub.collections.items(collection):
        row: dict[str, Any] | None = None
        if item.repo is not None:
            repo = request.hub.store.by_uid(item.repo)
            if repo is not None and request.hub.permissions.may_see(request.actor, repo):
                row = _repo_row(request, repo, repo_info(repo, request.hub.head_facts(repo)))
        elif item.type == "paper":
            row = {"href": f"https://arxiv.org/abs/{item.name}", "id": f"arXiv {item.name}", "type": "paper"}
        else:
            other = request.hub.collections.by_id(item.name)
            if other is not None and request.hub.permissions.may_see_collection(request.actor, other):
                row = {"href": f"/collections/{other.slug}", "id": other.title, "type": "collection"}
        if row is not None:
            rows.append(_PLAIN_ROW | row | {"note": item.note or ""})
    return rows


def collections_of(request: Request, namespace: str) -> list[dict[str, Any]]:
    """The collections of an account that the reader may see: ``{href, title, description, private}``."""
    return [
        {"href": f"/collections/{item.slug}", "title": item.title, "about": item.description or "",
         "private": item.private}
        for item in request.hub.collections.all(namespace)
        if request.hub.permissions.may_see_collection(request.actor, item)
    ]  # fmt: skip


def kind_title(kind: str) -> str:
    """``model`` to ``Models``."""
    return _PLURALS[kind]
