"""A folder or a repo screened as far as its files are at hand: all of a folder, small parts of a repo."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hubkit.checks.rules import SPECIAL_FILE
from hubkit.checks.screening.file import numbers_of, screen_file
from hubkit.checks.screening.filenames import PICKLE_SUFFIXES
from hubkit.checks.source import FolderSource, Source
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.tensors import header_length

_SCREENED = 2 * 1024 * 1024
"""Bytes up to which any file of a repo is fetched to search it for secrets."""
_SCREENED_TEXT = 16 * 1024 * 1024
"""The same for files that are text by their suffix."""
_MEDIA = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp3", ".wav", ".flac", ".ogg", ".mp4", ".webm", ".ttf"})
"""Pictures, sounds and fonts: nothing loads a pickle by these names, and their bytes are no text with secrets."""
_BATCH_FILES = 256
_BATCH_BYTES = 16 * 1024 * 1024
"""Small files that are requested together: at most so many, or the first that make so many bytes."""
_START = 64 * 1024
"""Bytes from the beginning of other files that show whether they are pickles."""
_SUFFIXES = frozenset(
    {"", ".md", ".json", ".jsonl", ".txt", ".py", ".yaml", ".yml", ".jinja", ".toml", ".cfg", ".ini", ".sh", ".ipynb"}
)


def screen_source(source: Source) -> list[Finding]:
    """What :func:`screen_file` finds in the files of ``source``.

    In a folder also weights that are NaN or infinite, and links that leave it. Of the large files of a repo only the
    beginning is fetched, and of weights the header.
    """
    return list(_in_folder(source) if isinstance(source, FolderSource) else _in_repo(source))


def _in_folder(source: FolderSource) -> Iterator[Finding]:
    for path, local in source.walk():
        if local.is_symlink() and not _stays_inside(local, source.folder):
            yield SPECIAL_FILE.finding("A link to something outside the folder.", file=path)
        elif not local.is_dir():
            yield from screen_file(path, local.resolve()) or numbers_of(path, local.resolve())


def _stays_inside(link: Path, root: Path) -> bool:
    """Whether a link leads to a file of the folder, or, in a cache of the Hub's client, of that cache."""
    try:
        target, folder = link.resolve(strict=True), root.resolve()
    except (OSError, RuntimeError):
        return False
    cache = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
    return target.is_file() and (target.is_relative_to(folder) or target.is_relative_to(cache))


def _in_repo(source: Source) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "file"
        for path, start in _starts(source):
            with local.open("wb") as file:
                file.write(start)
                file.truncate(source.files()[path].size if path.endswith(".safetensors") else len(start))
            yield from screen_file(path, local)
            local.unlink()


def _starts(source: Source) -> Iterator[tuple[str, bytes]]:
    """What of each file is to be screened. Small files are requested some at a time, and held as long as that."""
    batch: list[str] = []
    size = 0
    for path, entry in source.files().items():
        suffix = Path(path).suffix.lower()
        if suffix in _MEDIA:
            continue
        if suffix != ".safetensors" and entry.size <= (_SCREENED_TEXT if suffix in _SUFFIXES else _SCREENED):
            batch.append(path)
            size += entry.size
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                yield from source.contents(batch).items()
                batch, size = [], 0
        elif (start := _start(source, path, entry.size)) is not None:
            yield path, start
    yield from source.contents(batch).items()


def _start(source: Source, path: str, size: int) -> bytes | None:
    """The header of weights, or the beginning of a large file; None for a pickle by its name, and for large text."""
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        try:
            length = header_length(source.read(path, 0, min(8, size)), size, path)
        except RefusedError:
            return source.read(path, 0, min(size, _START))
        return source.read(path, 0, 8 + length)
    return None if suffix in PICKLE_SUFFIXES or suffix in _SUFFIXES else source.read(path, 0, _START)
