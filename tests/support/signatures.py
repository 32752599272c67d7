"""Keys, and releases signed with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from releases import RECIPE, Release

from hubkit.core.files import digests
from hubkit.core.trees import Entry, Tree
from hubkit.recipe.models import Recipe

T = TypeVar("T")


def key_pair(folder: Path, name: str = "release", password: str | None = None, kind: Any = None) -> tuple[Path, Path]:
    """The files of a new private key (EC on P-256 unless ``kind`` is given) and its public half."""
    key = kind or ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private, public = folder / f"{name}-private.pem", folder / f"{name}-public.pem"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def recipe_signed_by(key: Path | None) -> Recipe:
    return RECIPE.signed_with(key) if key else RECIPE


def signed_by(key: Path | None) -> dict[str, Any]:
    """What of the recipe says that ``key`` signs; None: nobody does."""
    return {"sign": recipe_signed_by(key).sign}


def publish_signed(release: Release, key: Path | None, *names: str) -> Release:
    """Stage the variants, signed by the private key in the file ``key``; unsigned without one."""
    for name in names or tuple(RECIPE.variants):
        release.perform(f"publish[{name}]", signed_by(key))
    return release


def content(release: Release, name: str) -> dict[str, bytes]:
    """The files of the staged variant ``name``, read back from the Hub's side of the run: its artifacts."""
    from releases import REPO, hub_of

    hub = hub_of(release)
    commit = release.made[f"publish[{name}]"].json("published.json")["commit"]
    return {path: hub.read_file(REPO, path, commit) or b"" for path in hub.tree(REPO, commit)}


@dataclasses.dataclass
class Files:
    """A tree in memory that is listed as a Hub lists it: large files by sha256, the others by their git id."""

    held: dict[str, bytes]
    scratch: Path
    name: str = "me/model@main"
    commit: str | None = "c" * 40
    opened: list[str] = dataclasses.field(default_factory=list)

    def files(self) -> Tree:
        found = {}
        for path, body in self.held.items():
            self.scratch.write_bytes(body)
            item = digests(self.scratch)
            lfs = path.endswith(".safetensors")
            found[path] = Entry(item.size, sha256=item.sha256) if lfs else Entry(item.size, git=item.git)
        return found

    def blocks(self, path: str) -> Iterator[bytes]:
        self.opened.append(path)
        body = self.held[path]
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    def irregular(self) -> tuple[str, ...]:
        return ()

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        body = self.held[path][start:]
        return body if length is None else body[:length]

    def other(self, repo: str, revision: str | None) -> Tree | None:
        return None

    def retried(self, call: Callable[[], T]) -> T | None:
        return call()
