"""What lists and infos of repos show of a commit, kept in the database: lists read no git objects.

A commit never changes, so its facts are read once: by the first request that shows it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hubkit.server.repos import metadata, references
from hubkit.server.repos.git import MAIN, Git
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.reader import Entry
from hubkit.server.repos.store import Repo, Store
from hubkit.server.storage.database import Database, now, stamp

_FORM = 2
"""Raise it when facts are read otherwise: those of an earlier form are read again."""
_CONFIG_KEYS = ("architectures", "model_type")
_KIND_FILES = frozenset(["config.json", "adapter_config.json"])
_CONFIG_LIMIT = 2**20
_README_LIMIT, _MOST_PAPERS = 2**20, 20
_PAPER = re.compile(r"https?://(?:(?:www\.)?arxiv\.org/(?:abs|pdf)|(?:huggingface\.co|hf\.co)/papers)/(\d{4}\.\d{4,5})")
_AT_ONCE = 400
_COMMITS_KEPT = 50
"""Commits of one repo whose facts are kept, those read last."""
log = logging.getLogger("hubkit.server")


@dataclass(frozen=True)
class Facts:
    """A commit, as lists show it."""

    commit: str
    changed: str
    """When it was made, as clients read times."""
    names: tuple[str, ...]
    """The files by which one sees what a repo holds: configs, and the first safetensors file."""
    used: int
    """Bytes of all files together."""
    card: dict[str, Any]
    config: dict[str, Any]
    papers: tuple[str, ...] = ()
    """arXiv ids of the papers that the card links to."""


class FactStore:
    """The facts of the commits of one data folder."""

    def __init__(self, database: Database, store: Store) -> None:
        self._db, self._store = database, store

    def at_head(self, repo: Repo) -> Facts:
        """The facts of the head of ``main``. DamagedError when they are not known and cannot be read."""
        path = self._store.path(repo)
        commit = references.read(path, MAIN)
        if commit and (row := self._row(repo, commit)):
            return row
        git = Git(path)
        return self.at(repo, git, git.head())

    def known_at_heads(self, repos: Sequence[Repo]) -> dict[str, Facts]:
        """The facts of the heads of ``main``, by internal id, of those repos of which they are known."""
        heads: dict[str, str] = {}
        for repo in repos:
            with contextlib.suppress(DamagedError):
                if commit := references.read(self._store.path(repo), MAIN):
                    heads[repo.uid] = commit
        found, pairs = dict[str, Facts](), list(heads.items())
        for start in range(0, len(pairs), _AT_ONCE):
            some = pairs[start : start + _AT_ONCE]
            marks = ", ".join(["(?, ?)"] * len(some))
            rows = self._db.rows(
                "SELECT repo, commit_id, facts FROM commit_facts "
                f"WHERE form = ? AND (repo, commit_id) IN (VALUES {marks})",
                _FORM, *itertools.chain.from_iterable(some),
            )  # fmt: skip
            for row in rows:
                if facts := _parsed(row["commit_id"], row["facts"]):
                    found[row["repo"]] = facts
        return found

    def at(self, repo: Repo, git: Git, commit: str) -> Facts:
        """The facts of a commit of the repo. DamagedError when they are not known and cannot be read."""
        return self._row(repo, commit) or self._read(repo, git, commit)[0]

    def files(self, repo: Repo, git: Git, commit: str) -> Sequence[str]:
        """The paths of all files at a commit, in git's order."""
        row = self._db.row(
            "SELECT files FROM commit_facts WHERE repo = ? AND commit_id = ? AND form = ?", repo.uid, commit, _FORM
        )
        if row:
            try:
                return list(json.loads(zlib.decompress(row["files"])))
            except (ValueError, zlib.error):
                pass
        return self._read(repo, git, commit)[1]

    def _row(self, repo: Repo, commit: str) -> Facts | None:
        row = self._db.row(
            "SELECT facts FROM commit_facts WHERE repo = ? AND commit_id = ? AND form = ?", repo.uid, commit, _FORM
        )
        return _parsed(commit, row["facts"]) if row else None

    def _read(self, repo: Repo, git: Git, commit: str) -> tuple[Facts, list[str]]:
        names, files, used, weights = [], [], 0, False
        for entry in git.walk(commit) or ():
            if entry.folder:
                continue
            files.append(entry.path)
            used += entry.size
            is_weights = entry.path.endswith(".safetensors")
            if entry.path in _KIND_FILES or (is_weights and not weights):
                weights = weights or is_weights
                names.append(entry.path)
        readme = _readme(git, commit)
        facts = Facts(
            commit, stamp(git.commit(commit).time), tuple(names), used, _card(readme),
            config_of(git, commit) if repo.type == "model" else {}, papers_in(readme),
        )  # fmt: skip
        self._keep(repo, facts, files)
        return facts, files

    def _keep(self, repo: Repo, facts: Facts, files: list[str]) -> None:
        value = {
            "changed": facts.changed, "names": facts.names, "used": facts.used, "card": facts.card,
            "config": facts.config, "papers": facts.papers,
        }  # fmt: skip
        packed = zlib.compress(json.dumps(files).encode(), 3)
        try:
            with self._db.lax_transaction():
                self._db.run(
                    "INSERT OR REPLACE INTO commit_facts VALUES (?, ?, ?, ?, ?, ?)",
                    repo.uid, facts.commit, _FORM, json.dumps(value), packed, now(),
                )  # fmt: skip
                self._db.run(
                    "DELETE FROM commit_facts WHERE repo = ? AND commit_id NOT IN "
                    "(SELECT commit_id FROM commit_facts WHERE repo = ? ORDER BY stored DESC, rowid DESC LIMIT ?)",
                    repo.uid, repo.uid, _COMMITS_KEPT,
                )  # fmt: skip
        except sqlite3.Error as error:  # the disk is full, or the repo was deleted meanwhile: what was read is shown
            log.warning("the facts of %s are not kept: %s", repo.web, error)


def _parsed(commit: str, text: str) -> Facts | None:
    """The facts of a commit as they are kept; None for those that are damaged."""
    try:
        value = json.loads(text)
        sequences = {"names": tuple(value["names"]), "papers": tuple(value["papers"])}
        return Facts(commit, **value | sequences)
    except (ValueError, TypeError, KeyError):
        return None


def card_of(git: Git, commit: str) -> dict[str, Any]:
    """The README's metadata at a commit; empty when there is none or it cannot be parsed."""
    return _card(_readme(git, commit))


def _readme(git: Git, commit: str) -> str:
    entry = git.entry(commit, "README.md")
    if entry is None or entry.folder or entry.pointer:
        return ""
    return git.blob(entry.oid).decode("utf-8", "replace")


def _card(readme: str) -> dict[str, Any]:
    try:
        return metadata.read(readme)
    except metadata.MetadataError:
        return {}


def papers_in(readme: str) -> tuple[str, ...]:
    """The arXiv ids of the papers that a card links to, on arXiv or as pages of papers on a Hub; at most 20."""
    found = dict.fromkeys(match[1] for match in _PAPER.finditer(readme[:_README_LIMIT]))
    return tuple(islice(found, _MOST_PAPERS))


def config_of(git: Git, commit: str) -> dict[str, Any]:
    """The part of ``config.json`` that infos contain; empty when there is none or it is not valid."""
    entry: Entry | None = git.entry(commit, "config.json")
    if entry is None or entry.folder or entry.size >= _CONFIG_LIMIT:
        return {}
    try:
        value = json.loads(git.blob(entry.oid))
    except (ValueError, RecursionError):
        return {}
    try:
        config = metadata.plain(
            {key: value[key] for key in _CONFIG_KEYS if key in value} if isinstance(value, dict) else {}
        )
    except metadata.MetadataError:
        return {}
    assert isinstance(config, dict)
    return config
