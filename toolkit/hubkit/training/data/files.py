"""Datasets in files beside the recipe: JSON, JSON lines, CSV and Parquet, also compressed by gzip, read row by row.

Rows come as the file has them: the datasets library would fit them to one schema first, and add a null for each key
that another row has.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hubkit.core.errors import RefusedError, UsageError
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Source

Raw = Mapping[str, Any]
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""The files that are read; all but Parquet may have .gz after it."""
_PIECE = 1 << 20
_BATCH = 1000
_ROW = 64 * 1024 * 1024
"""The most characters of a row in a list of JSON."""
_SPACE = re.compile(r"[ \t\r\n]*")
_CELL = 16 * 1024 * 1024
"""The most characters of a cell of CSV."""


def matching(folder: Path, source: Source) -> list[Path]:
    """The files that ``source`` names in the recipe's ``folder``, each once, in the order of their names.

    UsageError when a pattern matches none, or when a file is of no kind that is read.
    """
    found: dict[Path, None] = {}
    for pattern in source.patterns:
        path = Path(pattern).expanduser()
        path = path if path.is_absolute() else folder.absolute() / path
        named = [path] if path.is_file() else _glob(path)
        files = [item for item in named if item.is_file()]
        if not files:
            what = "is a folder" if path.is_dir() else "does not exist"
            hint = f"Name its files: {pattern.rstrip('/')}/*.jsonl." if path.is_dir() else "Paths begin at the recipe."
            raise UsageError(f"The file {pattern} {what} (looked in {folder.absolute()}).", hint=hint)
        found.update(dict.fromkeys(files))
    for path in found:
        if kind_of(path) is None:
            raise UsageError(
                f"{path.name} is of no kind that is read as data.", hint=f"Give {', '.join(KINDS)}, or .gz of them."
            )
    return list(found)


def _glob(pattern: Path) -> list[Path]:
    """What the last parts of ``pattern`` match, from the first one that has a wildcard on."""
    plain = next((number for number, part in enumerate(pattern.parts) if set("*?[") & set(part)), None)
    if plain is None:
        return []
    return sorted(Path(*pattern.parts[:plain]).glob("/".join(pattern.parts[plain:])))


def kind_of(path: Path) -> str | None:
    """The kind of ``path`` by its name; None when it is none of :data:`KINDS`."""
    name = path.name.lower()
    compressed, name = name.endswith(".gz"), name.removesuffix(".gz")
    kind = next((known for known in KINDS if name.endswith(known)), None)
    return None if compressed and kind == ".parquet" else kind


@dataclass(frozen=True)
class DataFiles:
    """The files that the sources of a recipe name, with their digests, by :func:`_key`; and what is wrong with others.

    ``problems``: (message, next action) of the sources whose files cannot be found.
    """

    files: Mapping[str, tuple[NamedFile, ...]] = field(default_factory=dict)
    problems: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, sources: Iterable[Source]) -> DataFiles:
        """The files of ``sources`` in the recipe's ``folder``, as they are now."""
        found: dict[str, tuple[NamedFile, ...]] = {}
        problems: dict[str, tuple[str, str]] = {}
        for source in sources:
            if source.repo is None:
                try:
                    paths = matching(folder, source)
                except UsageError as error:
                    problems[_key(source)] = (error.message, error.hint or "")
                else:
                    found[_key(source)] = tuple(NamedFile.beside(path.parent, path.name) for path in paths)
        return cls(found, problems)

    def of_source(self, source: Source) -> tuple[NamedFile, ...]:
        """The files of ``source``. UsageError when there are none."""
        if problem := self.problems.get(_key(source)):
            raise UsageError(problem[0], hint=problem[1])
        return self.files[_key(source)]


def _key(source: Source) -> str:
    return "\n".join(source.patterns)


def digest(files: Sequence[NamedFile]) -> str:
    """The sha256 of one file; of several, that of their names and digests."""
    if len(files) == 1:
        return files[0].digest
    return hashlib.sha256("".join(f"{item.path.name} {item.digest}\n" for item in files).encode()).hexdigest()


def rows(paths: Iterable[Path]) -> Iterator[Raw | None]:
    """The rows of all of ``paths``, read as they are asked for. None: its bytes are no text.

    RefusedError that names the file and the line when a file is not what its name says.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".json": _json}
    for path in paths:
        try:
            yield from readers.get(str(kind_of(path)), _lines)(path)
        except (OSError, EOFError, zlib.error) as error:
            raise RefusedError(
                f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}.",
                hint="Write the file again; a .gz that ends early was not copied whole.",
            ) from error


def columns(found: Iterable[Raw | None]) -> tuple[str, ...]:
    """The columns of the rows ``found``, in the order in which they appear."""
    return tuple(dict.fromkeys(key for row in found if row is not None for key in row))


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _lines(path: Path) -> Iterator[Raw | None]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _object(line, f"{path.name}:{number}")


def _object(line: bytes, place: str) -> Raw | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        raise _no_json(place, error) from None
    return _row(value, place)


def _row(value: Any, place: str) -> Raw:
    if not isinstance(value, dict):
        raise RefusedError(
            f'{place} is {_article(value)}, and not an object such as {{"prompt": ..., "completion": ...}}.',
            hint="Write one object for each row.",
        )
    return value


def _article(value: Any) -> str:
    names = {str: "text", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null")


def _no_json(place: str, error: Exception) -> RefusedError:
    words = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
    return RefusedError(f"{place} is not valid JSON: {words}.", hint="Fix this line, or remove it.")


def _json(path: Path) -> Iterator[Raw | None]:
    """A list of objects, read one by one; or JSON lines under another name."""
    with _open(path) as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"["):
        yield from _lines(path)
        return
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        for number, value in enumerate(_elements(text, path), 1):
            yield _row(value, f"{path.name}: row {number}")


def _elements(text: io.TextIOWrapper, path: Path) -> Iterator[Any]:
    """The elements of the JSON list in ``text``, of which no more than one and a piece of the file is in memory."""
    decoder, held, number, ended = json.JSONDecoder(), text.read(_PIECE), 0, False
    place = held.index("[") + 1
    while True:
        place = _end_of_space(held, place)
        if held[place : place + 1] == "]":
            return
        where = f"{path.name}: row {number + 1}"
        try:
            value, end = decoder.raw_decode(held, place)
            end = _end_of_space(held, end)
            if end == len(held):
                raise ValueError("the list does not end after it")
        except (ValueError, RecursionError) as error:
            if ended or isinstance(error, RecursionError) or len(held) - place > _ROW:
                raise _no_json(where, error) from None
            piece = text.read(max(_PIECE, len(held) - place))
            held, place, ended = held[place:] + piece, 0, not piece
            continue
        if held[end] not in ",]":
            raise _no_json(where, ValueError("no comma follows on it"))
        yield value
        if held[end] == "]":
            return
        number, place = number + 1, end + 1


def _end_of_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _csv(path: Path) -> Iterator[Raw | None]:
    csv.field_size_limit(min(_CELL, sys.maxsize))
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    with (
        _open(path) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise csv.Error(f"it has more cells than the {len(reader.fieldnames or ())} of the header")
                yield {name: value for name, value in row.items() if value is not None}
        except csv.Error as error:
            raise RefusedError(
                f"{path.name}:{reader.line_num} is no row of CSV: {error}.",
                hint="Put cells with line breaks, quotes or commas in double quotes.",
            ) from None


def _parquet(path: Path) -> Iterator[Raw | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from (_without_nulls(row) for row in batch.to_pylist())
    except pa.ArrowException as error:
        raise RefusedError(
            f"{path.name} is no Parquet file: {str(error).splitlines()[0][:200]}.", hint="Write the file again."
        ) from None


def without_nulls(value: Any) -> Any:
    """``value`` without the keys that Arrow added to an object because another row has them: those that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {name: without_nulls(value) for name, value in row.items()}
