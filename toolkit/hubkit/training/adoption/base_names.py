"""Is the base that an adapter names the recipe's base? By its name, by the digests of its files, or as the person says.

Trainers write what they loaded: a repo, a folder of that machine, or a quantized mirror (``unsloth/...-bnb-4bit``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import digests
from hubkit.core.names import repo_id_problem
from hubkit.core.numbers import short_commit

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

By = Literal["config", "digests", "stated"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHED = re.compile(r"(?:.*/)?models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?")
"""A model in the cache of the Hub's client: its repo and its commit are in its path."""
_MIRROR = re.compile(r"unsloth/(.+?)(?:-unsloth)?-bnb-4bit", re.IGNORECASE)


@dataclass(frozen=True)
class BaseName:
    """What the adapter's config calls its base, and how it is known to be the recipe's.

    ``name`` is fit to be published: of a folder only its last part.
    """

    name: str | None
    by: By


@dataclass(frozen=True)
class Named:
    """The base that adapter_config.json names: a repo, perhaps at a commit, or a path."""

    name: str
    commit: str | None

    @property
    def is_path(self) -> bool:
        """Whether it is no repo's name."""
        return self.name.startswith((".", "/", "~")) or "\\" in self.name or self.name.count("/") > 1

    @property
    def is_mirror(self) -> bool:
        """Whether it is a 4-bit copy, as Unsloth publishes them: its files are others than the base's."""
        return _MIRROR.fullmatch(self.name) is not None

    @property
    def public(self) -> str:
        """The name without the folders of somebody's machine."""
        return Path(self.name.replace("\\", "/")).name if self.is_path else self.name


def named_base(settings: Mapping[str, Any]) -> Named | None:
    """The base that ``settings`` (adapter_config.json) name; None when they name none."""
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name.strip():
        return None
    if cached := _CACHED.fullmatch(name):
        return Named(f"{cached[1]}/{cached[2]}", cached[3])
    commit = revision if isinstance(revision, str) and _COMMIT.fullmatch(revision) else None
    return Named(name, commit)


def may_be_stated(named: Named) -> bool:
    """Whether `hubkit release --base` is enough to say that this is the base: it cannot be looked up."""
    return named.is_mirror or (named.is_path and not Path(named.name).expanduser().is_dir())


def match_base(settings: Mapping[str, Any], hub: Hub, repo: str, commit: str, stated: str | None, key: str) -> BaseName:
    """How the base of the adapter with ``settings`` is known to be ``repo`` at ``commit``.

    ``stated`` is what the stage's ``base`` says, ``key`` the stage's place in the recipe (``stages.mine``).
    RefusedError when it is another base, or not known to be this one.
    """
    named = named_base(settings)
    if named is None:
        return BaseName(None, "stated")
    if stated is not None and stated not in {named.name, settings.get("base_model_name_or_path")}:
        raise RefusedError(
            f"The adapter's config names the base {named.public}, and {key}.base says {stated}.",
            hint=f"Write `base: {named.name}` there if that is a copy of {repo}.",
        )
    folder = Path(named.name).expanduser()
    if named.is_path and folder.is_dir():
        _compare_folder(folder, hub, repo, commit)
        return BaseName(named.public, "digests")
    if named.name == repo:
        _refuse_other_commit(named, hub, repo, commit)
        return BaseName(repo, "config")
    if not named.is_path and _same_weights(hub, named, repo, commit):
        return BaseName(named.public, "digests")
    if stated is not None:
        return BaseName(named.public, "stated")
    raise _another(named, repo, key)


def _another(named: Named, repo: str, key: str) -> RefusedError:
    if named.is_path or named.is_mirror:
        what = "a folder that is not here" if named.is_path else "a 4-bit copy, whose files cannot be compared"
        return RefusedError(
            f"The adapter's config names the base {named.public}: {what}.",
            hint=f"If it is {repo}, say so in the recipe: {key}.base: {named.name}",
        )
    return RefusedError(
        f"The adapter was trained on {named.name}, and the base of the recipe is {repo}.",
        hint=f"Set base.repo to {named.name}. If the two are the same model, write {key}.base: {named.name}",
    )


def _weights(hub: Hub, repo: str, commit: str) -> dict[str, str]:
    """sha256 of the safetensors files in the root of ``repo``, by name."""
    return {
        name: entry.sha256
        for name, entry in hub.tree(repo, commit).items()
        if name.endswith(".safetensors") and "/" not in name and entry.sha256
    }


def _same_weights(hub: Hub, named: Named, repo: str, commit: str) -> bool:
    """Whether the repo that is named has the very weights of ``repo``: another name of it, or a copy."""
    if repo_id_problem(named.name) is not None and "/" in named.name:
        return False
    try:
        other = _weights(hub, named.name, named.commit or "main")
    except HubkitError:
        return False
    return bool(other) and set(other.values()) == set(_weights(hub, repo, commit).values())


def _refuse_other_commit(named: Named, hub: Hub, repo: str, commit: str) -> None:
    """RefusedError when the adapter names a commit of ``repo`` whose weights are not those at ``commit``."""
    if named.commit in {None, commit}:
        return
    if not _same_weights(hub, named, repo, commit):
        raise RefusedError(
            f"The adapter was trained on {repo} at {short_commit(named.commit)}, whose weights are not those at"
            f" {short_commit(commit)}.",
            hint=f"Set base.revision to {named.commit}.",
        )


def _compare_folder(folder: Path, hub: Hub, repo: str, commit: str) -> None:
    """RefusedError unless the weights in ``folder`` are those of ``repo``: each file has the digest of one there."""
    local = [path for path in sorted(folder.iterdir()) if path.name.endswith(".safetensors") and path.is_file()]
    there = _weights(hub, repo, commit)
    if not local:
        raise RefusedError(
            f"The adapter was trained on the folder {folder}, which has no safetensors weights to compare with {repo}.",
            hint="Train on the model of the Hub, or convert that folder's weights.",
        )
    known = set(there.values())
    for path in local:
        if digests(path).sha256 not in known:
            raise RefusedError(
                f"The adapter was trained on the folder {folder}, whose {path.name} is no file of {repo} at"
                f" {short_commit(commit)}.",
                hint="Set base.repo and base.revision to the model that this folder holds.",
            )
    if len(local) != len(known):
        raise RefusedError(
            f"The adapter was trained on the folder {folder}, which has {len(local)} of the {len(known)} weight files"
            f" of {repo}.",
            hint="Download the rest of that model.",
        )
