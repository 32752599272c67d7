"""A staged commit: a variant's bundle as the Hub holds it, on a staging branch or in a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hubkit.core.files import Manifest, read_json, write_json
from hubkit.publishing.bundle import Bundle
from hubkit.recipe.artifact import JsonArtifact

_BUNDLE = "bundle.json"
WRITTEN = "written"
"""The folder of the files that were written for the bundle."""


@dataclass(frozen=True)
class StagedCommit(JsonArtifact):
    """The verified ``commit`` of ``repo``, and what it holds.

    ``branch`` is the staging branch or the ref of the pull request, whose number is ``pull_request``. ``tree`` is the
    digest of the bundle. ``over`` are the digests of the cards that were read on the variant's branch, by path.
    """

    FILE = "published.json"
    repo: str
    branch: str
    commit: str
    files: int
    bytes: int
    tree: str
    pull_request: int | None = None
    over: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def write(
        cls,
        bundle: Bundle,
        folder: Path,
        *,
        repo: str,
        branch: str,
        commit: str,
        pull_request: int | None,
        over: Mapping[str, str],
    ) -> StagedCommit:
        """Write the manifest of ``bundle`` to ``folder``; what is left to save is returned."""
        write_json(folder / _BUNDLE, bundle.to_json())
        return cls(
            repo=repo,
            branch=branch,
            commit=commit,
            files=len(bundle.files),
            bytes=bundle.manifest.size,
            tree=bundle.manifest.digest,
            pull_request=pull_request,
            over=over,
            folder=folder,
        )

    @property
    def bundle(self) -> Manifest:
        """The files of the bundle with their digests."""
        return Manifest.from_json(read_json(self.folder / _BUNDLE))
