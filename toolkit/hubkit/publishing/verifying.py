"""Verify that a revision or a folder holds what its manifest lists: `hubkit verify`, for any release by hubkit.

    .hubkit/manifest.json   read at that commit; it may come from anybody, so its size is limited and it is validated
    the Hub's listing       paths, sizes and digests of all files; weights are read only with ``all_bytes``
    .hubkit/model.sig       must cover exactly the manifest and the files that it lists
    .hubkit/provenance.sigstore.json    must state what the manifest says, where a release has it

The Hub lists files outside LFS by their git id, a SHA-1, for which two files of one digest can be made. A signature
is over sha256; so when one is checked, those (small) files are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from hubkit.checks.source import Source
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Digests, Manifest
from hubkit.core.trees import Entry, Tree, entry_of
from hubkit.hub.errors import DamagedRepoError
from hubkit.publishing.dsse import payload_of
from hubkit.publishing.manifest import MANIFEST_PATH, OUR_OWN, SIGNATURE_PATH, parse_manifest, unsound
from hubkit.publishing.provenance import PROVENANCE_PATH, statement_problem
from hubkit.publishing.signing import Verifier

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""The most bytes of a manifest or a signature."""
_LARGE = 64 * 1024 * 1024
"""Reading a file of at least this many bytes is reported."""
_NO_FILE, _NOT_HAD = Entry(-1), Entry(-2)
"""A pipe, or a link to a folder or to nothing; what is listed but cannot be downloaded. No file has their sizes."""


Checked = Literal["none", "unchecked", "valid", "invalid"]


@dataclass(frozen=True)
class Difference:
    """One thing that differs from the manifest. ``message`` continues a sentence that begins with the path."""

    path: str
    kind: Literal["missing", "changed", "extra", "signature"]
    message: str


@dataclass(frozen=True)
class Report:
    """The outcome for ``name`` (and ``commit``, of a repo). It is sound when nothing differs.

    ``files`` and ``bytes`` are those that the manifest lists, ``foreign`` files that it does not list. ``read``: every
    byte was hashed; else the digests that the Hub lists were trusted. ``signature``: 'none', 'unchecked' (no signer was
    given), 'valid' or 'invalid', and so is ``provenance``, the signed statement. ``made_for`` is the repo and variant
    that the manifest names.
    """

    name: str
    commit: str | None
    files: int
    bytes: int
    read: bool
    signature: Checked
    provenance: Checked
    differences: tuple[Difference, ...]
    foreign: tuple[str, ...]
    made_for: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**asdict(self), "sound": not self.differences}


def verify(
    source: Source,
    *,
    verifier: Verifier | None = None,
    all_bytes: bool = False,
    strict: bool | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Report:
    """Compare ``source`` with its own manifest, and check the signature of ``verifier`` when one is given.

    ``all_bytes`` reads and hashes every file; ``strict`` (the default when a signature is checked) counts
    files that the manifest does not list as differences. ``say`` is called when a large file is read.

    RefusedError without a manifest, or without the required signature. ConflictError for an invalid manifest.
    """
    listed: dict[str, Entry] = {**source.files(), **dict.fromkeys(source.irregular(), _NO_FILE)}
    raw = _raw_manifest(source, listed)
    content, manifest = parse_manifest(raw)
    signed = verifier is not None
    found = list(_file_differences(source, listed, manifest, all_bytes=all_bytes, by_sha256=signed, say=say))
    foreign = tuple(sorted(listed.keys() - manifest.files.keys() - OUR_OWN))
    if signed if strict is None else strict:
        found += [Difference(path, "extra", "is not in the manifest") for path in foreign]
    signature: Checked = "unchecked" if SIGNATURE_PATH in listed else "none"
    if verifier is not None:
        if signature == "none":
            raise RefusedError(
                f"{source.name} is not signed: it has no {SIGNATURE_PATH}.",
                hint="Omit --key and --identity to compare it with its manifest only.",
            )
        wrong = _signature_problem(source, listed[SIGNATURE_PATH], verifier, manifest, raw)
        signature = "invalid" if wrong else "valid"
        found += [Difference(SIGNATURE_PATH, "signature", wrong)] if wrong else []
    provenance, wrong = _provenance(source, listed, content, verifier)
    found += [Difference(PROVENANCE_PATH, "signature", wrong)] if wrong else []
    return Report(
        source.name,
        source.commit,
        len(manifest.files),
        manifest.size,
        all_bytes or all(entry.sha256 is None and entry.git is None for entry in listed.values()),
        signature,
        provenance,
        tuple(sorted(found, key=lambda item: item.path)),
        foreign,
        {key: content[key] for key in ("repo", "variant") if isinstance(content.get(key), str)},
    )


def read_manifest(source: Source) -> tuple[dict[str, Any], Manifest]:
    """The content of the manifest of ``source``, and the files that it lists; errors as of :func:`verify`."""
    return parse_manifest(_raw_manifest(source, source.files()))


def _raw_manifest(source: Source, listed: Mapping[str, Entry]) -> bytes:
    if MANIFEST_PATH not in listed:
        raise RefusedError(
            f"{source.name} has no {MANIFEST_PATH}, so there is nothing to compare it with.",
            hint="Releases by hubkit have one; check other models with `hubkit check`.",
        )
    return _small(source, MANIFEST_PATH, listed[MANIFEST_PATH])


def _file_differences(
    source: Source, listed: Tree, manifest: Manifest, *, all_bytes: bool, by_sha256: bool, say: Callable[[str], None]
) -> Iterator[Difference]:
    """The listed files that are missing or differ. A file is read only when its digest is not known."""
    for path, promised in manifest.files.items():
        entry = listed.get(path)
        if entry is None:
            yield Difference(path, "missing", "is missing")
            continue
        unknown = entry.sha256 is None and (by_sha256 or entry.git is None)
        if entry.size == promised.size and (all_bytes or unknown):
            if promised.size >= _LARGE:
                say(f"reading {path} ({promised.size:,} bytes)")
            try:
                entry = source.retried(partial(_measured, source, path, promised.size)) or _NOT_HAD
            except DamagedRepoError:
                entry = _NOT_HAD
        if wrong := _wrong(entry, promised):
            yield Difference(path, "changed", wrong)


def _signature_problem(source: Source, entry: Entry, verifier: Verifier, manifest: Manifest, raw: bytes) -> str | None:
    files = {path: item.sha256 for path, item in manifest.files.items()}
    try:
        content = _small(source, SIGNATURE_PATH, entry)
        verifier.check(content, {**files, MANIFEST_PATH: hashlib.sha256(raw).hexdigest()})
    except ConflictError as error:
        return error.message
    return None


def _provenance(
    source: Source, listed: Tree, content: Mapping[str, Any], verifier: Verifier | None
) -> tuple[Checked, str | None]:
    """What of the signed provenance was checked, and what is wrong with it."""
    if PROVENANCE_PATH not in listed:
        return "none", None
    try:
        raw = _small(source, PROVENANCE_PATH, listed[PROVENANCE_PATH])
        payload = verifier.stated(raw) if verifier else payload_of(raw)
        wrong = statement_problem(payload, content)
    except ConflictError as error:
        return "invalid", error.message
    except ValueError as error:
        return "invalid", f"The provenance is {error}."
    if wrong:
        return "invalid", f"The provenance {wrong}."
    return ("valid" if verifier else "unchecked"), None


def _wrong(entry: Entry, promised: Digests) -> str | None:
    """How ``entry`` differs from the listed file, as the rest of a sentence that begins with the path."""
    if entry is _NO_FILE:
        return "is not a regular file"
    if entry is _NOT_HAD:
        return "is listed but cannot be downloaded"
    if entry.size != promised.size:
        return f"has {entry.size:,} bytes, not {promised.size:,}"
    if entry.same(entry_of(promised)):
        return None
    if entry.sha256:
        return f"has the sha256 {entry.sha256[:16]}…, not {promised.sha256[:16]}…"
    return f"has the git id {str(entry.git)[:16]}…, not {promised.git[:16]}…"


def _measured(source: Source, path: str, most: int) -> Entry:
    """Size and sha256 of what ``path`` gives; the size is more than ``most`` when it did not end there."""
    sha256, size = hashlib.sha256(), 0
    for block in source.blocks(path):
        sha256.update(block)
        size += len(block)
        if size > most:
            break
    return Entry(size, sha256.hexdigest())


def _small(source: Source, path: str, entry: Entry) -> bytes:
    """The content of a small file. ConflictError when it is not one, or differs from what is listed."""

    def read() -> bytes:
        content = b""
        for block in source.blocks(path):
            content += block
            if len(content) > MAX_MANIFEST_BYTES:
                break
        return content

    if not 0 <= entry.size <= MAX_MANIFEST_BYTES:
        raise unsound(
            f"{path} has {entry.size:,} bytes (at most {MAX_MANIFEST_BYTES:,})"
            if entry.size > 0
            else f"{path} is not a regular file"
        )
    content = source.retried(read)
    if content is None:
        raise unsound(f"{path} is listed but cannot be downloaded")
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    got = Entry(len(content), hashlib.sha256(content).hexdigest(), git)
    if got.size != entry.size or ((entry.sha256 or entry.git) and not entry.same(got)):
        raise unsound(f"{path} differs from what the Hub lists")
    return content
