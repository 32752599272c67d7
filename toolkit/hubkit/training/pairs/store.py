"""Numbers of pairs on disk, by content: what a fixed model says of a pair is computed once, whoever asks again.

    HUBKIT_HOME/reference/KEY/key.json       what the numbers belong to, in words
    HUBKIT_HOME/reference/KEY/SHA256.npy     some rows: digest of the pair, chosen, rejected

A file is named by the sha256 of its bytes and written by rename, so a torn or changed one is found and removed.
Several processes may write at once. The whole folder can be removed at any time.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import digest_of, read_json, write_atomic, write_json

FOLDER = "reference"
LIMIT = 512 << 20
"""Bytes that all keys together may take; those that were not used for the longest time are removed first."""
_FILES = 8
"""More files than this of one key are joined when they are read."""
_KEY = "key.json"

Numbers = tuple[float, float]


class Store:
    """The numbers of one ``key`` (plain JSON values that say what they belong to) below ``folder``.

    Held in arrays, 32 bytes for a pair: a million of them are no burden.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.root, self.folder = folder, folder / digest_of(key)[:32]
        self.key = dict(key)
        self.damaged = 0
        """Files that were not what their name says, and were removed."""
        self._new: dict[bytes, Numbers] = {}
        self._hold([])
        self._read()

    def __len__(self) -> int:
        return len(self._known) + len(self._new)

    def find(self, digest: bytes) -> Numbers | None:
        """What is known of the pair with this ``digest`` (16 bytes)."""
        import numpy as np

        if (new := self._new.get(digest)) is not None:
            return new
        place = int(np.searchsorted(self._digests, np.frombuffer(digest, "S16")[0]))
        if place == len(self._known) or self._digests[place : place + 1].tobytes() != digest:
            return None
        row = self._known[place]
        return float(row["chosen"]), float(row["rejected"])

    def add(self, digest: bytes, numbers: Numbers) -> None:
        """Remember ``numbers``; :meth:`flush` writes them."""
        self._new[digest] = numbers

    def flush(self) -> None:
        """Write what is new. A full disk costs the numbers, not the training."""
        if not self._new:
            return
        table = _table(self._new)
        self._hold([self._known, table])
        self._new = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / _KEY, self.key)
            _write(self.folder, table)
            prune(self.root, self.folder)
        except (OSError, HubkitError):
            return

    def _hold(self, tables: Sequence[Any]) -> None:
        import numpy as np

        self._known = _sorted(tables)
        self._digests = np.ascontiguousarray(self._known["digest"])

    def _read(self) -> None:
        files, tables = sorted(self.folder.glob("*.npy")), []
        for file in files:
            try:
                tables.append(_load(file))
            except FileNotFoundError:  # another process has just joined it with others
                continue
            except ValueError:
                self.damaged += 1
                file.unlink(missing_ok=True)
        if not files:
            return
        self._hold(tables)
        try:
            os.utime(self.folder)
            if len(files) > _FILES:
                joined = _write(self.folder, self._known)
                for file in files:
                    if file != joined:
                        file.unlink(missing_ok=True)
        except (OSError, HubkitError):
            return


def pairs_kept(root: Path, base: str, wanted: Mapping[str, Any]) -> Mapping[str, int]:
    """How many pairs are known below ``root`` by kind of device, at most of one key of ``base`` that has ``wanted``."""
    found: dict[str, int] = {}
    for folder in root.glob("*"):
        try:
            key = read_json(folder / _KEY)
            device, repo = str(key["device"]), key["base"]["repo"]
            pairs = sum(file.stat().st_size for file in folder.glob("*.npy")) // _BYTES
        except (OSError, HubkitError, KeyError, TypeError):
            continue
        if repo == base and all(key.get(name) == value for name, value in wanted.items()):
            found[device] = max(found.get(device, 0), pairs)
    return found


def prune(root: Path, kept: Path, limit: int = LIMIT) -> None:
    """Remove the keys below ``root`` that were not used for the longest time, until all take at most ``limit`` bytes.

    ``kept`` stays.
    """
    sizes = {
        folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in root.iterdir() if folder.is_dir()
    }
    total = sum(sizes.values())
    for folder in sorted(sizes, key=lambda item: item.stat().st_mtime):
        if total <= limit:
            return
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]


_ROW = [("digest", "S16"), ("chosen", "<f8"), ("rejected", "<f8")]
_BYTES = 32
"""Of one of them, in a file."""


def _table(rows: Mapping[bytes, Numbers]) -> Any:
    import numpy as np

    table = np.empty(len(rows), dtype=_ROW)
    table["digest"] = np.frombuffer(b"".join(rows), dtype="S16")
    table["chosen"], table["rejected"] = zip(*rows.values(), strict=True)
    return table


def _sorted(tables: Sequence[Any]) -> Any:
    """All rows of ``tables`` by their digest, each once."""
    import numpy as np

    table = np.concatenate([np.empty(0, dtype=_ROW), *tables])
    return table[np.unique(table["digest"], return_index=True)[1]]


def _write(folder: Path, table: Any) -> Path:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    content = buffer.getvalue()
    path = folder / f"{hashlib.sha256(content).hexdigest()}.npy"
    write_atomic(path, content)
    return path


def _load(file: Path) -> Any:
    """The rows of ``file``; ValueError when it is not what its name says."""
    import numpy as np

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.stem:
        raise ValueError(file.name)
    table = np.load(io.BytesIO(content), allow_pickle=False)
    if table.dtype != np.dtype(_ROW):
        raise ValueError(file.name)
    return table
