"""A client of Xet that sends what a test wants it to: xorbs and shards, sound or not."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

import lz4.frame
from huggingface_hub.utils import httpx

from hubkit.server.xet.hashes import chunk_hash, file_hash, from_hex, range_hash, to_hex, xorb_hash
from hubkit.server.xet.shards import _END_RECORD, _HEAD, _TAG

Named = list[tuple[bytes, int]]


def named(chunks: list[bytes]) -> Named:
    """Chunks as hashes and lengths."""
    return [(chunk_hash(chunk), len(chunk)) for chunk in chunks]


def packed(chunk: bytes, scheme: int = 0, length: int | None = None) -> bytes:
    """A chunk in a xorb; ``length`` is what its head says, when that is a lie."""
    body = chunk
    if scheme == 2:
        body = b"".join(chunk[place::4] for place in range(4))
    if scheme:
        body = lz4.frame.compress(body)
    size = len(chunk) if length is None else length
    return b"\0" + len(body).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + body


def xorb(chunks: list[bytes], scheme: int = 0) -> bytes:
    """A xorb."""
    return b"".join(packed(chunk, scheme) for chunk in chunks)


def shard(*files: bytes) -> bytes:
    """A shard of files, without what it would say of xorbs."""
    return _HEAD.pack(_TAG, 2, 0) + b"".join(files) + _END_RECORD + _END_RECORD


def file_record(
    terms: list[tuple[bytes, int, int, Named]], *, sha256: str | None = None, name: bytes | None = None,
    proofs: bool = True,
) -> bytes:  # fmt: skip
    """A file in a shard, of terms: xorb, first chunk, last chunk (not included), and these chunks."""
    chunks = [chunk for *_, part in terms for chunk in part]
    flags = (2**31 if proofs else 0) | (2**30 if sha256 else 0)
    record = struct.pack("<32sIIQ", name or file_hash(chunks), flags, len(terms), 0)
    for digest, first, last, part in terms:
        record += struct.pack("<32sIIII", digest, 0, sum(size for _, size in part), first, last)
    if proofs:
        record += b"".join(range_hash(digest for digest, _ in part) + bytes(16) for *_, part in terms)
    return record + (from_hex(sha256) + bytes(16) if sha256 else b"")


def whole(chunks: list[bytes], **more: Any) -> bytes:
    """A shard with one file that is one xorb."""
    parts = named(chunks)
    return shard(file_record([(xorb_hash(parts), 0, len(parts), parts)], **more))


@dataclass
class Wire:
    """One token's way to the Xet part of a Hub."""

    hub: str
    token: str
    repo: str
    scope: str = "write"
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Get another token."""
        address = f"{self.hub}/api/models/{self.repo}/xet-{self.scope}-token/main"
        answer = self.client.get(address, headers={"Authorization": f"Bearer {self.token}"})
        answer.raise_for_status()
        self.url = str(answer.json()["casUrl"])
        self.headers = {"Authorization": f"Bearer {answer.json()['accessToken']}"}
        assert answer.headers["X-Xet-Cas-Url"] == self.url

    def xorb(self, body: bytes, digest: bytes | str) -> httpx.Response:
        """Send a xorb."""
        name = digest if isinstance(digest, str) else to_hex(digest)
        return self.client.post(f"{self.url}/v1/xorbs/default/{name}", content=body, headers=self.headers)

    def shard(self, body: bytes) -> httpx.Response:
        """Send a shard."""
        return self.client.post(f"{self.url}/v1/shards", content=body, headers=self.headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask for something below the address."""
        return self.client.get(f"{self.url}{path}", headers=self.headers | headers)

    def upload(self, chunks: list[bytes], scheme: int = 0) -> str:
        """Upload a file that is one xorb; its Xet hash."""
        parts = named(chunks)
        assert self.xorb(xorb(chunks, scheme), xorb_hash(parts)).status_code == 200
        answer = self.shard(whole(chunks, sha256=hashlib.sha256(b"".join(chunks)).hexdigest()))
        assert answer.status_code == 200, answer.text
        return to_hex(file_hash(parts))
