"""A staged commit: a variant's bundle as the Hub holds it, on a staging branch or in a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

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
    digest of the bundle. ``expected_card_digests`` are the digests of the cards
    that were read on the variant's branch, by path.
    """

    FILE = "published.json"
    repo: str
    branch: str
    commit: str
    files: int
    bytes: int
    tree: str
    pull_request: int | None = None
    expected_card_digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, folder: Path = Path()) -> Self:
        """The staged commit in the plain ``value``; hubkit 0.1 called ``expected_card_digests`` ``over``."""
        if isinstance(value, Mapping) and "over" in value:
            value = {"expected_card_digests": value["over"], **value}
        return super().parse(value, folder)

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
        expected_card_digests: Mapping[str, str],
    ) -> StagedCommit:
        """Write the manifest of ``bundle`` to ``folder``; returns the artifact, which is still to be saved."""
        write_json(folder / _BUNDLE, bundle.to_json())
        return cls(
            repo=repo,
            branch=branch,
            commit=commit,
            files=len(bundle.files),
            bytes=bundle.manifest.size,
            tree=bundle.manifest.digest,
            pull_request=pull_request,
            expected_card_digests=expected_card_digests,
            folder=folder,
        )

    @property
    def bundle(self) -> Manifest:
        """The files of the bundle with their digests."""
        return Manifest.from_json(read_json(self.folder / _BUNDLE))
