"""The manifest of a branch, ``.hubkit/manifest.json``: the files of the release and their provenance.

Two readers of the same file. :class:`Provenance` reads what it can, to list and to compare branches, and never raises.
:func:`parse_manifest` is for ``hubkit verify``: it accepts only what hubkit writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Digests, Manifest
from hubkit.core.names import path_problem
from hubkit.core.trees import Tree, tree_of
from hubkit.hub.client import Hub, RepoType

MANIFEST_PATH = ".hubkit/manifest.json"
"""Where the branch keeps its manifest. A folder of its own: loaders read the root and never look there."""
SIGNATURE_PATH = ".hubkit/model.sig"
"""Where the branch keeps its signature, if it has one: it covers every other file of the bundle, the manifest too."""
CARDS = {"README.md": "README.md", "adapter-README.md": "adapter/README.md"}
"""The cards, by their names in the card's artifact: their paths on the branch."""
GENERATED = ".hubkit/cards"
"""Where the branch keeps its cards as they were generated, so that later edits can be detected."""
SCHEMA = 1
"""The version of the manifest's format that this hubkit writes, and the newest that it reads."""
OUR_OWN = frozenset({MANIFEST_PATH, SIGNATURE_PATH})
"""Files of a release that its manifest cannot list."""


@dataclass(frozen=True)
class Provenance:
    """The content of a branch's ``.hubkit/manifest.json``: where its files came from, and which are ours."""

    content: Mapping[str, Any]
    paths: frozenset[str]

    @classmethod
    def parse(cls, raw: bytes | None) -> Provenance | None:
        """The manifest in ``raw``; None when there is none or hubkit did not write it."""
        try:
            content = load_json(raw or b"")
            paths = frozenset(str(item["path"]) for item in content["files"])
        except (ValueError, KeyError, TypeError):
            return None
        return cls(content, paths | {MANIFEST_PATH, SIGNATURE_PATH})

    @property
    def promised(self) -> Tree:
        """Every listed file with its digests; empty when the list cannot be read."""
        try:
            return tree_of(Manifest.from_json(self.content))
        except (KeyError, TypeError, ValueError):
            return {}

    def named_files(self) -> dict[str, str]:
        """The digests of the files that the recipe names, by its key; empty when there are none."""
        recipe = self.content.get("recipe")
        files = recipe.get("files") if isinstance(recipe, Mapping) else None
        return dict(files) if isinstance(files, Mapping) else {}

    def facts(self) -> Iterator[tuple[str, Any]]:
        """Everything but the file list."""
        yield from ((key, value) for key, value in self.content.items() if key != "files")


def is_gguf_place(content: Mapping[str, Any]) -> bool:
    """Whether the manifest with ``content`` is of a place that has GGUF files alone."""
    gguf = content.get("gguf")
    return isinstance(gguf, Mapping) and "weights" in gguf


def provenance_at(hub: Hub, repo: str, commit: str, tree: Tree, repo_type: RepoType = "model") -> Provenance | None:
    """hubkit's manifest at ``commit``, whose ``tree`` is known; None when the commit has none that hubkit wrote."""
    listed = tree.get(MANIFEST_PATH)
    raw = hub.read_file(repo, MANIFEST_PATH, commit, repo_type, listed=listed) if listed else None
    return Provenance.parse(raw)


def parse_manifest(raw: bytes) -> tuple[dict[str, Any], Manifest]:
    """The content of the manifest in ``raw``, and the files that it lists.

    It may come from anybody. ConflictError unless it is what hubkit writes: JSON without duplicate keys, the files in
    order, each path valid and unique, each digest complete. RefusedError when a newer hubkit wrote it.
    """
    try:
        content = load_json(raw.decode("utf-8").encode(), pairs=_once)
        if b"\\ud" in raw.lower():  # half of a pair of surrogates is no text that could be written
            json.dumps(content, ensure_ascii=False).encode()
    except (UnicodeError, JsonError) as error:
        raise unsound(f"{MANIFEST_PATH} is not the JSON that hubkit writes") from error
    if (
        not isinstance(content, dict)
        or type(content.get("schema")) is not int
        or not isinstance(content.get("files"), list)
    ):
        raise unsound(f"{MANIFEST_PATH} lacks its schema or its files")
    if content["schema"] > SCHEMA:
        raise RefusedError(
            f"{MANIFEST_PATH} uses schema {content['schema']}; this version supports up to {SCHEMA}.",
            hint="Update hubkit: pip install -U hubkit",
        )
    files: dict[str, Digests] = {}
    last = ""
    for number, item in enumerate(content["files"], 1):
        problem = _item_problem(item)
        if problem is None and item["path"] <= last:
            problem = "appears twice or is out of order"
        if problem:
            raise unsound(f"{MANIFEST_PATH}: entry {number} {problem}")
        last = item["path"]
        files[last] = Digests(item["size"], item["sha256"], item["git"])
    return content, Manifest(files)


def _item_problem(item: Any) -> str | None:
    """Why ``item`` is not a valid entry of a manifest's file list; None when it is."""
    if not isinstance(item, dict) or item.keys() != {"path", "size", "sha256", "git"}:
        return "must have exactly the keys path, size, sha256 and git"
    path = item["path"]
    if not isinstance(path, str) or path in OUR_OWN:
        return "has a path that a release cannot contain"
    if problem := path_problem(path):
        return f"has a path that a release cannot contain: {problem}"
    if type(item["size"]) is not int or not 0 <= item["size"] < 2**63:
        return "has an invalid size"
    for name, length in (("sha256", 64), ("git", 40)):
        if not isinstance(item[name], str) or not re.fullmatch(rf"[0-9a-f]{{{length}}}", item[name]):
            return f"has no valid {name} ({length} hexadecimal digits)"
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def unsound(what: str) -> ConflictError:
    """The error for an invalid manifest or signature; ``what`` is a sentence without its full stop."""
    return ConflictError(f"{what}.", hint="Do not use this copy; download the release again.")
