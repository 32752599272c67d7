"""The info of a repo as the API returns it: files, the card's metadata, tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubkit.server.repos import metadata
from hubkit.server.repos.git import Entry, Git, commit_time
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.safetensors import parameters
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import stamp

_SUMMARY_KEYS = """
_id author cardData createdAt disabled downloads gated id lastModified library_name likes modelId pipeline_tag
private sdk sha tags
"""
_CONFIG_KEYS = ("architectures", "model_type")
_KIND_FILES = frozenset(["config.json", "adapter_config.json"])
_SUMMARY = frozenset(_SUMMARY_KEYS.split())


def file_item(entry: Entry) -> dict[str, Any]:
    """A file or folder as tree and paths-info return it. ``size`` of a large file is the size of its content."""
    item: dict[str, Any] = {
        "type": "directory" if entry.folder else "file", "oid": entry.oid, "size": entry.size, "path": entry.path,
    }  # fmt: skip
    if entry.pointer:
        item["lfs"] = {"oid": entry.pointer.oid, "size": entry.pointer.size, "pointerSize": entry.pointer_size}
    return item


def sibling(entry: Entry, blobs: bool) -> dict[str, Any]:
    """A file in the info of a repo; ``blobs`` adds size and digests."""
    item: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        item |= {"size": entry.size, "blobId": entry.oid}
        if entry.pointer:
            item["lfs"] = {"sha256": entry.pointer.oid, "size": entry.pointer.size, "pointerSize": entry.pointer_size}
    return item


@lru_cache(maxsize=512)
def _card(path: Path, blob: str) -> dict[str, Any]:
    try:
        return metadata.read(Git(path).blob(blob).decode("utf-8", "replace"))
    except metadata.MetadataError:
        return {}


@lru_cache(maxsize=512)
def _config(path: Path, blob: str) -> dict[str, Any]:
    try:
        value = json.loads(Git(path).blob(blob))
    except (ValueError, RecursionError):
        return {}
    try:
        fields = {key: value[key] for key in _CONFIG_KEYS if key in value} if isinstance(value, dict) else {}
        config = metadata.plain(fields)
    except metadata.MetadataError:
        return {}
    assert isinstance(config, dict)
    return config


def card_of(git: Git, path: Path, commit: str) -> dict[str, Any]:
    """The README's metadata at a commit; empty when there is none or it cannot be read."""
    entry = git.entry(commit, "README.md")
    return _card(path, entry.oid) if entry and not entry.folder and not entry.pointer else {}


def config_of(git: Git, path: Path, commit: str) -> dict[str, Any]:
    """The part of ``config.json`` that infos contain; empty when there is none or it is not valid."""
    entry = git.entry(commit, "config.json")
    return _config(path, entry.oid) if entry and not entry.folder and entry.size < 2**20 else {}


def tags_of(card: dict[str, Any], repo: Repo, names: Sequence[str], config: dict[str, Any]) -> list[str]:
    """Tags as the Hub derives them: from files, from the card, then ``region``."""
    tags: list[str] = []
    if repo.type == "model":
        tags += [library] if (library := _library(card, names)) else []
        tags += ["safetensors"] if any(name.endswith(".safetensors") for name in names) else []
        tags += [str(config["model_type"])] if isinstance(config.get("model_type"), str) else []
        tags += [str(card["pipeline_tag"])] if card.get("pipeline_tag") else []
    for key, prefix in (
        ("tags", ""), ("language", "" if repo.type == "model" else "language:"), ("datasets", "dataset:"),
        ("base_model", "base_model:"), ("license", "license:"), ("task_categories", "task_categories:"),
        ("size_categories", "size_categories:"), ("sdk", ""),
    ):  # fmt: skip
        value = card.get(key)
        tags += [f"{prefix}{item}" for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    return [*dict.fromkeys([*tags, "region:us"])]


def _library(card: dict[str, Any], names: Sequence[str]) -> str | None:
    given = card.get("library_name")
    if isinstance(given, str):
        return given
    if "config.json" in names:
        return "transformers"
    return "peft" if "adapter_config.json" in names else None


@lru_cache(maxsize=4096)
def _files(path: Path, commit: str) -> tuple[tuple[str, ...], int]:
    """The files at a commit whose names show the library, and the bytes of all files together.

    A commit never changes, and lists need this of every repo; so a tree is walked once, not in each request.
    """
    names, size, weights = [], 0, False
    for entry in Git(path).walk(commit) or ():
        if entry.folder:
            continue
        size += entry.size
        if entry.path in _KIND_FILES or (entry.path.endswith(".safetensors") and not weights):
            weights = weights or entry.path.endswith(".safetensors")
            names.append(entry.path)
    return tuple(names), size


def siblings(git: Git, commit: str | None, *, blobs: bool = False) -> list[dict[str, Any]]:
    """Every file at a commit, as the info of a repo lists it."""
    entries = (git.walk(commit) or ()) if commit else ()
    return [sibling(entry, blobs) for entry in entries if not entry.folder]


def repo_info(repo: Repo, git: Git, path: Path, commit: str | None) -> dict[str, Any]:
    """The info of a repo at a commit (``None``: a repo without one), without its :func:`siblings`."""
    names, used = _files(path, commit) if commit else ((), 0)
    card = card_of(git, path, commit) if commit else {}
    config = config_of(git, path, commit) if commit and repo.type == "model" else {}
    head = commit_time(git.commit(commit)) if commit else None
    value: dict[str, Any] = {
        "_id": repo.uid[:24], "id": repo.id, "author": repo.namespace, "sha": commit, "private": repo.private,
        "gated": repo.gated or False, "disabled": False, "createdAt": repo.created,
        "lastModified": stamp(head) if head else repo.created, "likes": 0, "downloads": 0,
        "tags": tags_of(card, repo, names, config), "cardData": card or None,
        "usedStorage": used,
    }  # fmt: skip
    if repo.type == "model":
        value |= {"modelId": repo.id, "library_name": _library(card, names), "pipeline_tag": card.get("pipeline_tag")}
        if config:
            value["config"] = config
        if isinstance(card.get("model-index"), list):
            value["model-index"] = card["model-index"]
    if repo.type == "space":
        given = card.get("sdk")
        value["sdk"] = given if given and isinstance(given, str) else repo.sdk
    return value


def summary(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of an info that lists of repos contain."""
    return {key: item for key, item in value.items() if key in _SUMMARY}


def only_fields(value: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """Only the fields that ``expand`` asks for, and the id."""
    return {"_id": value["_id"], "id": value["id"]} | {key: value[key] for key in fields if key in value}


def safetensors_info(git: Git, commit: str, uid: str, lfs: LfsStore) -> dict[str, Any]:
    """The ``safetensors`` field of a model's info: the parameters of the weights at its root, an adapter's excluded.

    ``uid`` is the repo's internal id: only objects that the repo has are read.
    """
    counts: Counter[str] = Counter()
    for entry in git.walk(commit, recursive=False) or ():
        weights = entry.path.endswith(".safetensors") and not entry.path.startswith("adapter")
        if weights and entry.pointer and lfs.has(uid, entry.pointer.oid):
            counts.update(parameters(lfs.path(entry.pointer.oid)))
    return {"safetensors": {"parameters": dict(counts), "total": counts.total()}} if counts else {}
