"""Data in files beside the recipe: each kind of file is read row by row, pinned by its sha256, its faults named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.pipeline.keys import plain
from hubkit.recipe.models import Source
from hubkit.training.data import files, loading
from hubkit.training.data.files import DataFiles

ROWS: list[dict[str, Any]] = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(folder: Path, *names: str) -> list[Mapping[str, Any] | None]:
    source = Source(file=names)
    return list(loading.load(None, source, DataFiles.of(folder, [source]).of_source(source)).rows)  # type: ignore[arg-type]


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(ROWS)


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS: Mapping[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n") + b"\n\n"),
    "a.ndjson": lambda path: path.write_bytes(LINES),
    "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "a.csv": write_csv,
    "a.tsv": write_csv,
    "a.parquet": write_parquet,
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read(tmp_path, name) == ROWS


def test_several_files_and_patterns_are_read_in_the_order_of_their_names_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in (2, 1):
        (tmp_path / "data" / f"part-{number}.jsonl").write_text(json.dumps({"part": number}))
    (tmp_path / "more.jsonl").write_text(json.dumps({"part": 3}))
    expected = [{"part": 1}, {"part": 2}, {"part": 3}]
    assert read(tmp_path, "data/*.jsonl", "more.jsonl", "data/part-1.jsonl") == expected
    assert read(tmp_path, str(tmp_path / "data" / "*.jsonl"))[:1] == expected[:1]


def test_the_sha256_of_the_files_pins_them_and_counts_for_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    source = Source(file="a.jsonl")
    named = DataFiles.of(tmp_path, [source])
    assert loading.load(None, source, named.of_source(source)).commit == hashlib.sha256(LINES).hexdigest()  # type: ignore[arg-type]
    before = plain(named)
    assert str(tmp_path) not in json.dumps(before)
    path.write_bytes(LINES + LINES)
    assert plain(DataFiles.of(tmp_path, [source])) != before
    with pytest.raises(RefusedError, match=r"a\.jsonl changed while it was read"):
        list(loading.load(None, source, named.of_source(source)).rows)  # type: ignore[arg-type]


def test_a_file_that_grows_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    source = Source(file="a.jsonl")
    rows = iter(loading.load(None, source, DataFiles.of(tmp_path, [source]).of_source(source)).rows)  # type: ignore[arg-type]
    assert next(rows) == ROWS[0]
    with path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(RefusedError, match="changed while it was read"):
        list(rows)


def test_rows_of_a_list_are_read_without_the_whole_list_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PIECE", 16)
    rows = [{"text": '[{,]}\\" é ' * n, "n": [n, {"m": -1.5e3}]} for n in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert read(tmp_path, "a.json") == rows
    (tmp_path / "none.json").write_text(" [ ] ")
    assert read(tmp_path, "none.json") == []
    (tmp_path / "numbers.json").write_text("[" + "1" * 40 + "]")
    with pytest.raises(RefusedError, match=r"numbers\.json: row 1 is a number, and not an object"):
        read(tmp_path, "numbers.json")


def test_a_row_keeps_its_own_keys_whatever_other_rows_have(tmp_path: Path) -> None:
    calls = [{"calls": [{"arguments": {name: 1}}]} for name in ("room", "city")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in calls))
    assert read(tmp_path, "a.jsonl") == calls
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(calls), tmp_path / "a.parquet")
    assert read(tmp_path, "a.parquet") == calls


BROKEN: Mapping[str, tuple[bytes, str]] = {
    "line.jsonl": (LINES + b'{"prompt": "What', r"line\.jsonl:6 is not valid JSON: Unterminated string"),
    "deep.jsonl": (b"[" * 100_000, r"deep\.jsonl:1 is not valid JSON: nested too deeply"),
    "list.jsonl": (LINES + b"[1]\n", r"list\.jsonl:6 is a list, and not an object"),
    "open.json": (b'[{"a": 1}, {"a": 2}', r"open\.json: row 2 is not valid JSON: the list does not end"),
    "comma.json": (b'[{"a": 1} {"a": 2}]', r"comma\.json: row 1 is not valid JSON: no comma follows on it"),
    "cells.csv": (b"a,b\n1,2\n1,2,3\n", r"cells\.csv:3 is no row of CSV: it has more cells than the 2"),
    "quote.csv": (b'a,b\n1,"2\n', r"quote\.csv:\d is no row of CSV"),
    "no.parquet": (b"PAR1 it is not", r"no\.parquet is no Parquet file"),
    "no.jsonl.gz": (b"plain", r"no\.jsonl\.gz cannot be read: Not a gzipped file"),
    "half.jsonl.gz": (gzip.compress(LINES * 50)[:60], r"half\.jsonl\.gz cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_the_place(name: str, tmp_path: Path) -> None:
    body, words = BROKEN[name]
    (tmp_path / name).write_bytes(body)
    with pytest.raises(RefusedError, match=words) as error:
        read(tmp_path, name)
    assert error.value.hint
    assert "\n" not in error.value.message


def test_bytes_that_are_no_text_lose_their_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"prompt": "caf\xe9", "completion": "x"}\n')
    assert read(tmp_path, "a.jsonl") == [*ROWS, None]
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\nq,caf\xe9\n")
    source = Source(file="a.csv")
    with pytest.raises(UsageError, match=r"No row of a\.csv can be read as prompt-completion: not UTF-8: completion"):
        loading.check_files(DataFiles.of(tmp_path, [source]).of_source(source), source, "sft")


@pytest.mark.parametrize(
    ("name", "words", "advice"),
    [
        ("none.jsonl", "The file none.jsonl does not exist", "begin at the recipe"),
        ("none/*.jsonl", "The file none/*.jsonl does not exist", "begin at the recipe"),
        ("folder", "The file folder is a folder", "folder/*.jsonl"),
        ("notes.md", "notes.md is of no kind that is read as data", ".parquet"),
        ("empty.jsonl", "empty.jsonl has no rows", "one row a line"),
    ],
)
def test_a_file_that_cannot_be_data_is_named_with_the_next_action(
    name: str, words: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    source = Source(file=name)
    with pytest.raises(HubkitError) as error:
        loading.check_files(DataFiles.of(tmp_path, [source]).of_source(source), source, None)
    assert words in error.value.message
    assert advice in str(error.value.hint)


def test_a_source_is_called_by_its_files_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    assert Source(file="data/*.jsonl").name == "data/*.jsonl"
    assert Source(file=(str(tmp_path / "mine.csv"), "~/more.csv")).name == "mine.csv, more.csv"
    assert os.sep not in Source(file=str(tmp_path / "mine.csv")).name


def test_the_recipe_of_a_run_with_files_is_read_again() -> None:
    source = Source(file=("a.jsonl", "b.csv"), columns={"prompt": "ask"})
    assert Source.model_validate_json(source.model_dump_json()) == source
    for key, value in {"revision": "v1", "config": "en", "split": "test"}.items():
        with pytest.raises(ValueError, match=f"`{key}` is of a repo"):
            Source.model_validate({"file": "a.jsonl", key: value})
