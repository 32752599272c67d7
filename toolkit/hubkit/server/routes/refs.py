"""Branches, tags, commits, squashing."""

from __future__ import annotations

import html
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.core.names import ref_problem
from hubkit.server.database import stamp
from hubkit.server.git import Git, MovedError, moment, title_and_rest
from hubkit.server.http import Call, Refusal, whole
from hubkit.server.routes.common import api, find_repo, guarded, need_commit, need_files, need_write


def refs(call: Call) -> Response:
    """Every branch and tag; pull requests when asked for."""
    repo = find_repo(call)
    need_files(call, repo)
    kinds: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if call.flag("include_prs"):
        kinds["pullRequests"] = []
    for ref, commit in sorted(call.hub.store.git(repo).refs()):
        _, family, short = ref.split("/", 2)
        where = {"heads": "branches", "convert": "converts", "tags": "tags", "pr": "pullRequests"}[family]
        if where in kinds:
            name = ref if family in {"convert", "pr"} else short
            kinds[where].append({"name": name, "ref": ref, "targetCommit": commit})
    return JSONResponse(kinds)


def create_branch(call: Call) -> Response:
    """A branch at ``startingPoint``, or at ``main``."""
    repo = find_repo(call)
    need_write(call, repo)
    branch = guarded(ref_problem, call.params["branch"])
    git = call.hub.store.git(repo)
    start = call.text("startingPoint", "main") if call.value is not None else "main"
    with call.hub.store.lock(repo):
        if git.target(f"refs/heads/{branch}"):
            raise Refusal(409, f"Reference refs/heads/{branch} already exists")
        commit = need_commit(git, start)
        if call.value and call.value.get("emptyBranch"):
            tree = git.write_tree(None, [])
            commit = git.write_commit(tree, [], "initial commit", call.actor.name if call.actor else "")
        try:
            git.move(f"refs/heads/{branch}", commit, None)
        except MovedError:
            raise Refusal(409, f"Reference refs/heads/{branch} cannot be created beside the other branches") from None
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    """Remove a branch; ``main`` stays."""
    repo = find_repo(call)
    need_write(call, repo)
    branch = call.params["branch"]
    if branch == "main":
        raise Refusal(403, "Cannot delete refs/heads/main")
    git = call.hub.store.git(repo)
    with call.hub.store.lock(repo):
        if ref_problem(branch) or not git.target(f"refs/heads/{branch}"):
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        git.delete_ref(f"refs/heads/{branch}")
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """A tag at a revision; with a message an annotated one."""
    repo = find_repo(call)
    need_write(call, repo)
    git = call.hub.store.git(repo)
    commit = need_commit(git, call.params["rev"])
    tag = guarded(ref_problem, call.text("tag"))
    message = commit_message(call.text("message", "") if call.fields().get("message") is not None else "")
    with call.hub.store.lock(repo):
        if git.target(f"refs/tags/{tag}"):
            raise Refusal(409, f"Tag reference refs/tags/{tag} already exists")
        try:
            git.tag(tag, commit, message, call.actor.name if call.actor else "")
        except MovedError:
            raise Refusal(409, f"Tag reference refs/tags/{tag} cannot be created beside the other tags") from None
    return JSONResponse({})


def delete_tag(call: Call) -> Response:
    """Remove a tag."""
    repo = find_repo(call)
    need_write(call, repo)
    tag = call.params["tag"]
    git = call.hub.store.git(repo)
    with call.hub.store.lock(repo):
        if ref_problem(tag) or not git.target(f"refs/tags/{tag}"):
            raise Refusal(404, f"Invalid rev id: {tag}", "RevisionNotFound")
        git.delete_ref(f"refs/tags/{tag}")
    return JSONResponse({})


def commits(call: Call) -> Response:
    """The history of a revision, newest first."""
    repo = find_repo(call)
    need_files(call, repo)
    git = call.hub.store.git(repo)
    commit = need_commit(git, call.params["rev"])
    page, count = whole(call.query.get("p"), 0, most=10**6), call.limit(50, 1000)
    formatted = "formatted" in call.query.getlist("expand[]") + call.query.getlist("expand")
    found, more = [], False
    for at, item in enumerate(git.history(commit)):
        if at >= (page + 1) * count:
            more = True
            break
        if at >= page * count:
            found.append(_shown(item, formatted))
    return JSONResponse(found, headers=call.next_page(p=str(page + 1)) if more else None)


def _shown(item: Any, formatted: bool) -> dict[str, Any]:
    title, rest = title_and_rest(item.message)
    value: dict[str, Any] = {
        "id": str(item.id), "title": title, "message": rest, "authors": [{"user": item.author.name, "avatar": ""}],
        "date": stamp(moment(item)),
    }  # fmt: skip
    if formatted:
        value["formatted"] = {"title": _escaped(title), "message": _escaped(rest)}
    return value


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def super_squash(call: Call) -> Response:
    """Replace the history of a branch by one commit with the same files."""
    repo = find_repo(call)
    need_write(call, repo)
    assert call.actor is not None
    branch = call.params["rev"]
    git = call.hub.store.git(repo)
    ref = branch_ref(branch)
    message = call.text("message", "") if call.value is not None and call.fields().get("message") is not None else ""
    message = commit_message(message or f"Super-squash branch '{branch}'")
    with call.hub.store.lock(repo):
        old = git.target(ref)
        if old is None:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        new = git.write_commit(git.commit(old).tree.id, [], message, call.actor.name)
        _moved(git, ref, new, old)
    call.hub.spaces.changed(repo, ref)
    return JSONResponse({"commitOid": new})


def _moved(git: Git, ref: str, new: str, old: str) -> None:
    try:
        git.move(ref, new, old)
    except MovedError:
        raise stale() from None


def commit_message(text: str) -> str:
    """``text`` when git can keep it as a message; else 400."""
    if "\0" in text or len(text) > 65536:
        raise Refusal(400, "The commit message is too long or holds a NUL character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, "The commit message is not Unicode text.") from None
    return text


def stale() -> Refusal:
    """412: the branch is not where the client believes it to be."""
    return Refusal(412, "The branch was updated since you opened this page. Please refresh and try again.")


def branch_ref(revision: str) -> str:
    """The full name of the ref that a commit to ``revision`` moves; 404 for what cannot be one."""
    if revision.startswith(("refs/pr/", "refs/heads/")) and not ref_problem(revision.split("/", 2)[2]):
        return revision
    if ref_problem(revision):
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return f"refs/heads/{revision}"


SPECS = [
    api("GET", "/refs", refs),
    api("POST", "/branch/{branch}", create_branch, "json"),
    api("DELETE", "/branch/{branch}", delete_branch),
    api("POST", "/tag/{rev}", create_tag, "json"),
    api("DELETE", "/tag/{tag}", delete_tag),
    api("GET", "/commits/{rev}", commits),
    api("POST", "/super-squash/{rev}", super_squash, "json"),
]
