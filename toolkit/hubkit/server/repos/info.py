"""The info of a repo as the API returns it: files, the card's metadata, tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hubkit.server.repos.facts import Facts
from hubkit.server.repos.git import Entry, Git
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.safetensors import parameters
from hubkit.server.repos.store import Repo

_SUMMARY_KEYS = """
_id author cardData createdAt damaged disabled downloads gated id lastModified library_name likes modelId pipeline_tag
private sdk sha tags trendingScore
"""
_SUMMARY = frozenset(_SUMMARY_KEYS.split())


def file_item(entry: Entry, xet_hash: str | None = None) -> dict[str, Any]:
    """A file or folder as tree and paths-info return it. ``size`` of a large file is the size of its content."""
    item: dict[str, Any] = {
        "type": "directory" if entry.folder else "file", "oid": entry.oid, "size": entry.size, "path": entry.path,
    }  # fmt: skip
    if entry.pointer:
        item["lfs"] = {"oid": entry.pointer.oid, "size": entry.pointer.size, "pointerSize": entry.pointer_size}
    if xet_hash:
        item["xetHash"] = xet_hash
    return item


def sibling(entry: Entry) -> dict[str, Any]:
    """A file in the info of a repo, with its size and digests."""
    item: dict[str, Any] = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.pointer:
        item["lfs"] = {"sha256": entry.pointer.oid, "size": entry.pointer.size, "pointerSize": entry.pointer_size}
    return item


def tags_of(
    card: dict[str, Any], repo: Repo, names: Sequence[str], config: dict[str, Any], papers: Sequence[str] = ()
) -> list[str]:
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
        ("size_categories", "size_categories:"), ("sdk", ""), ("task_ids", "task_ids:"),
        ("multilinguality", "multilinguality:"), ("language_creators", "language_creators:"),
    ):  # fmt: skip
        value = card.get(key)
        tags += [f"{prefix}{item}" for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    relation = card.get("base_model_relation")
    if isinstance(relation, str):
        tags += [f"base_model:{relation}:{tag[11:]}" for tag in tags if tag.startswith("base_model:")]
    return [*dict.fromkeys([*tags, *(f"arxiv:{paper}" for paper in papers), "region:us"])]


def _library(card: dict[str, Any], names: Sequence[str]) -> str | None:
    given = card.get("library_name")
    if isinstance(given, str):
        return given
    if "config.json" in names:
        return "transformers"
    return "peft" if "adapter_config.json" in names else None


def siblings(git: Git, commit: str) -> list[dict[str, Any]]:
    """Every file at a commit with its size and digests, as the info of a repo lists it."""
    return [sibling(entry) for entry in git.walk(commit) or () if not entry.folder]


def repo_info(repo: Repo, facts: Facts | None) -> dict[str, Any]:
    """The info of a repo at a commit, without its :func:`siblings`. ``facts`` None: it is damaged."""
    card, config, names = (facts.card, facts.config, facts.names) if facts else ({}, {}, ())
    value: dict[str, Any] = {
        "_id": repo.uid[:24], "id": repo.id, "author": repo.namespace, "sha": facts.commit if facts else None,
        "private": repo.private, "gated": repo.gated or False, "disabled": facts is None, "createdAt": repo.created,
        "lastModified": facts.changed if facts else repo.created, "likes": 0, "downloads": 0,
        "tags": tags_of(card, repo, names, config, facts.papers if facts else ()), "cardData": card or None,
        "usedStorage": facts.used if facts else 0,
    }  # fmt: skip
    if facts is None:
        value["damaged"] = True
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


def liked(count: int) -> dict[str, int]:
    """The fields of an info that tell how many like the repo; this Hub counts no others for its trend."""
    return {"likes": count, "trendingScore": count}


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
