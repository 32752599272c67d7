"""Checks before a branch or tag is changed: is it protected by a recipe, does a card or a Space use it?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.names import repo_id_problem
from hubkit.hub.client import Hub, RepoType
from hubkit.recipe.loading import load_recipe
from hubkit.recipe.names import MAIN, RECIPE_FILE, STAGING

_SPACES = 100
"""The most Spaces that are checked; a Hub lists those that use a model first."""
_SPACE_FILES = ("README.md", "release.json", "app.py")
"""Where a Space names what it loads: its card, the commits that hubkit pins, its code."""


def need_unprotected(repo: str, name: str, folder: Path, *, force: bool = False) -> None:
    """RefusedError when the recipe in ``folder`` is for ``repo`` and protects the branch or tag ``name``.

    Also when the recipe cannot be read. ``force`` accepts both.
    """
    path = folder / RECIPE_FILE
    if force or not path.is_file():
        return
    try:
        recipe = load_recipe(path)
    except UsageError as error:
        raise RefusedError(
            f"{path} cannot be read, so it is unknown whether it protects {name!r}.\n{error.message}",
            hint="Fix it, run the command in another folder, or use --force.",
        ) from error
    if repo.lower() in {mine.lower() for mine in recipe.repos()} and name in recipe.protected:
        raise RefusedError(
            f"{name!r} is protected: {path} is the recipe of {repo} and lists it under `protected`.",
            hint="Remove it from that list, or use --force.",
        )


def pointed_to_by(hub: Hub, repo: str, name: str, commit: str, repo_type: RepoType = "model") -> str | None:
    """The card or Space that refers to the branch or tag ``name``, at ``commit``, in words; None when none is known.

    Cards of the other branches, and for a model the Spaces that declare it: a Space names the branch, or pins its
    commit.
    """
    others = {
        branch: head
        for branch, head in hub.refs(repo, repo_type).branches.items()
        if branch != name and not branch.startswith(f"{STAGING}/")
    }
    for branch in sorted(others, key=lambda branch: (branch != MAIN, branch)):
        for path in ("README.md", "adapter/README.md"):
            raw = hub.read_listed(repo, path, others[branch], repo_type)
            if raw and names_revision(raw.decode("utf-8", "replace"), name):
                return f"the card on {branch!r} ({path}) names it"
    for space in _spaces_of(hub, repo) if repo_type == "model" else ():
        for path in _SPACE_FILES:
            text = _text(hub, space, path)
            if repo in text and (commit in text or names_revision(text, name)):
                return f"the Space {space} loads it ({path})"
    return None


def _text(hub: Hub, space: str, path: str) -> str:
    """A file of a Space; empty when it has none that this token may read."""
    try:
        raw = hub.read_file(space, path, MAIN, "space")
    except (UsageError, RefusedError):
        return ""
    return raw.decode("utf-8", "replace") if raw else ""


def names_revision(text: str, name: str) -> bool:
    """Whether ``text`` names the branch or tag: as code, in quotes, in an address, or after ``revision`` or ``@``."""
    word = re.escape(name)
    return bool(
        re.search(
            rf"""[`"']{word}[`"']|/(?:tree|resolve|blob|raw)/{word}(?![\w.-])"""
            rf"""|(?:\brevision\s*[:=]\s*|--revision\s+|\w@){word}(?![\w./-])""",
            text,
        )
    )


def _spaces_of(hub: Hub, repo: str) -> Iterator[str]:
    """The Spaces that use the model, as the Hub lists them."""
    yield from (space for space in hub.spaces_using(repo, _SPACES) if not repo_id_problem(space))
