"""Proves the merge of a published model: `hubkit verify --proof`, for any repo or folder with an ``adapter/``.

The adapter names its base and the base's commit. Weights that this machine's cache lacks are downloaded into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import RefusedError
from hubkit.core.names import repo_id_problem
from hubkit.core.numbers import short_commit
from hubkit.hub.client import Hub
from hubkit.hub.files import FULL_ID
from hubkit.models.merging.companions import PATTERNS, read_settings
from hubkit.models.merging.proof import Proof, prove
from hubkit.models.tensors import DTYPE_NAMES
from hubkit.publishing.published_commits import refuse_unpublished
from hubkit.publishing.read_back import verify_held

ADAPTER = "adapter"
RELEASE = ("model*.safetensors", "model.safetensors.index.json", "config.json", f"{ADAPTER}/adapter_*")
"""What of a release is needed to prove its merge."""


@dataclass(frozen=True)
class ProvedMerge:
    """The ``proof``, and the base at its commit that it was made with."""

    base: str
    commit: str
    proof: Proof


def prove_merge(
    source: FolderSource | RepoSource, hub: Hub, *, thorough: bool = False, say: Callable[[str], None] = lambda _: None
) -> ProvedMerge:
    """Recompute the merged weights of ``source`` from its adapter and the base, which is read from ``hub``.

    ConflictError when they differ, or the base's commit is on no branch of its repo; RefusedError when ``source`` has
    no adapter, or its adapter names no commit.
    """
    folder = source.folder if isinstance(source, FolderSource) else held(hub, source.repo, source.commit, RELEASE)
    base, commit = base_of(folder / ADAPTER, source.name)
    refuse_unpublished(hub, base, commit)
    say(f"reading {base}@{short_commit(commit)}")
    there = held(hub, base, commit, PATTERNS)
    config = read_settings(folder, "config.json")
    dtype = str(config.get("dtype") or config.get("torch_dtype"))
    if dtype not in DTYPE_NAMES:
        raise RefusedError(f"config.json of {source.name} names no dtype that a merge can have.")
    proof = prove(
        there,
        folder / ADAPTER,
        folder,
        dtype=dtype,
        thorough=thorough,
        hint="Do not use it until its publisher has explained the difference.",
    )
    return ProvedMerge(base, commit, proof)


def held(hub: Hub, repo: str, commit: str, patterns: tuple[str, ...]) -> Path:
    """The files of ``repo`` in this machine's cache for ``hub``, downloaded where missing, with the Hub's digests."""
    folder = hub.download(repo, commit, cache=hub.target.home / "hub", patterns=patterns)
    verify_held(hub, repo, commit, folder, patterns)
    return folder


def base_of(adapter: Path, name: str) -> tuple[str, str]:
    """The base that the adapter names, and its commit."""
    if not adapter.is_dir():
        raise RefusedError(
            f"{name} has no {ADAPTER}/: its weights were published without one, so there is no merge to prove.",
            hint="Without --proof the files are compared with the manifest.",
        )
    try:
        settings = load_json((adapter / "adapter_config.json").read_bytes(), SETTINGS)
    except (OSError, JsonError) as error:
        raise RefusedError(
            f"{name} has no readable {ADAPTER}/adapter_config.json, so its merge cannot be proved.",
            hint="Releases by hubkit have one. Without --proof the files are compared with the manifest.",
        ) from error
    found = settings if isinstance(settings, dict) else {}
    base, commit = found.get("base_model_name_or_path"), found.get("revision")
    if not isinstance(base, str) or repo_id_problem(base):
        raise RefusedError(f"The adapter of {name} names no repo as its base, so its merge cannot be proved.")
    if not isinstance(commit, str) or not FULL_ID.fullmatch(commit):
        raise RefusedError(f"The adapter of {name} does not name the commit of {base}, so its merge cannot be proved.")
    return base, commit
