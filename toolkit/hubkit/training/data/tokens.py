"""The rows of a dataset as token ids: tokenized once, on all cores, and written as they come.

tokens/preferences/tokens.json       what follows: how many rows, of which tokenizer
tokens/preferences/00000.arrow       Arrow streams, which `datasets` maps into memory

An SFT row has the columns ``input_ids`` and ``labels`` (-100 where no loss falls), a preference row ``prompt_ids``,
``chosen_ids`` and ``rejected_ids``: what the trainers of TRL make of it themselves. ``row`` is its number in the set.
While a row is tokenized, the end of its answers is looked at (:mod:`hubkit.training.data.turns`): once for all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.files import read_json, write_json
from hubkit.models.chat.eos import EndOfTurn
from hubkit.training.data import turns
from hubkit.training.data.turns import Answer, Side
from hubkit.training.data.workers import Workers

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = "tokens.json"
FOLDERS = {"sets": "tokens", "evaluation": "evaluation-tokens"}
"""The folder of the tokens, by that of the rows."""
CHUNK = 256
"""Rows that a process is given at once."""
SHARD = 1 << 30
"""Bytes from which on the next file is begun."""
IGNORED = -100
"""The label of a token that is not in the loss."""
PREFERENCE = ("prompt_ids", "chosen_ids", "rejected_ids")
SFT = ("input_ids", "labels")


@dataclass(frozen=True)
class Cut:
    """How a training stage cuts a row: ``max_length`` in tokens (None: not at all) and the part that it keeps."""

    max_length: int | None
    keep: str


@dataclass(frozen=True)
class Encoder:
    """What a process needs to tokenize rows and to look at the end of their answers, for each stage in ``cuts``.

    ``all_answers``: the loss falls on the earlier answers of SFT rows, too.
    """

    tokenizer: Any
    end_of_turn: EndOfTurn
    cuts: Mapping[str, Cut]
    all_answers: bool = False

    def __call__(self, lines: Sequence[str]) -> Chunk:
        """The rows in ``lines`` of JSON as token ids."""
        rows = [json.loads(line) for line in lines]
        encoded = turns.encode(rows, self.tokenizer, self.end_of_turn if self.all_answers else None)
        sides = {
            stage: turns.count(encoded, self.end_of_turn, max_length=cut.max_length, keep=cut.keep)
            for stage, cut in self.cuts.items()
        }
        return Chunk(_columns(encoded), sides)


@dataclass(frozen=True)
class Chunk:
    """Some rows: by column the values and the length of each row, as int32; and the counts by stage and side."""

    columns: Mapping[str, tuple[Any, Any]]
    sides: Mapping[str, Mapping[str, Side]]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values()))[1])


def _columns(encoded: Sequence[Mapping[str, Answer]]) -> dict[str, tuple[Any, Any]]:
    import numpy as np

    found = {}
    for name, lists in _as_trl(encoded).items():
        lengths = np.fromiter(map(len, lists), np.int32, len(lists))
        values = np.fromiter((token for ids in lists for token in ids), np.int32, int(lengths.sum()))
        found[name] = (values, lengths)
    return found


def _as_trl(encoded: Sequence[Mapping[str, Answer]]) -> dict[str, list[list[int]]]:
    if "rows" in encoded[0]:
        answers = [sides["rows"] for sides in encoded]
        labels = [
            [token if trained else IGNORED for token, trained in zip(answer.ids, answer.trained, strict=True)]
            if answer.earlier
            else [IGNORED] * answer.begins + answer.ids[answer.begins :]
            for answer in answers
        ]
        return {"input_ids": [answer.ids for answer in answers], "labels": labels}
    begins = [sides["chosen"].begins for sides in encoded]
    return {
        "prompt_ids": [sides["chosen"].ids[:begin] for sides, begin in zip(encoded, begins, strict=True)],
        "chosen_ids": [sides["chosen"].ids[begin:] for sides, begin in zip(encoded, begins, strict=True)],
        "rejected_ids": [sides["rejected"].ids[begin:] for sides, begin in zip(encoded, begins, strict=True)],
    }


@dataclass
class Written:
    """What :func:`write` made: the number of rows, and for each stage the counts by side."""

    rows: int = 0
    sides: dict[str, dict[str, Side]] = field(default_factory=dict)


def write(lines: Iterable[str], count: int, folder: Path, encoder: Encoder) -> Iterator[Written]:
    """Tokenize the ``count`` rows in ``lines`` and write them to ``folder``; yields what is done after each chunk."""
    made = Written(sides={stage: {} for stage in encoder.cuts})
    longest = dict.fromkeys((*SFT, *PREFERENCE), 0)
    with Workers(encoder, count) as workers, _Shards(folder) as shards:
        for chunk in workers.map(_parts(lines)):
            shards.add(chunk, made.rows)
            for name, (_, lengths) in chunk.columns.items():
                longest[name] = max(longest[name], int(lengths.max()))
            for stage, sides in chunk.sides.items():
                for side, counts in sides.items():
                    counts.not_closed = [number + made.rows for number in counts.not_closed]
                    made.sides[stage].setdefault(side, Side()).add(counts)
            made.rows += chunk.rows
            yield made
    facts = {"rows": made.rows, "files": shards.names, "tokenizer": fingerprint(encoder.tokenizer)}
    write_json(folder / FACTS, {**facts, "longest": {name: length for name, length in longest.items() if length}})


def _parts(lines: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(lines)
    while part := list(islice(rest, CHUNK)):
        yield part


class _Shards:
    """Arrow streams in ``folder``, each below some size."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self._bytes = folder, list[str](), 0
        self._writer: pa.RecordBatchStreamWriter | None = None

    def __enter__(self) -> _Shards:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, chunk: Chunk, first: int) -> None:
        """Write ``chunk``, whose first row has the number ``first``."""
        import numpy as np
        import pyarrow as pa

        arrays: dict[str, pa.Array] = {"row": pa.array(np.arange(first, first + chunk.rows, dtype=np.int64))}
        for name, (values, lengths) in chunk.columns.items():
            offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
            arrays[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        batch = pa.RecordBatch.from_pydict(arrays)
        if self._writer is None or self._bytes > SHARD:
            self.__exit__()
            self.names.append(f"{len(self.names):05d}.arrow")
            self._writer, self._bytes = pa.ipc.new_stream(self.folder / self.names[-1], batch.schema), 0
        self._writer.write_batch(batch)
        self._bytes += batch.nbytes


@dataclass(frozen=True)
class TokenFiles:
    """Tokens that :func:`write` wrote: the files, the number of rows, and the longest row by column."""

    files: tuple[Path, ...]
    rows: int
    longest: Mapping[str, int]


def find(folder: Path, tokenizer: Any) -> TokenFiles | None:
    """The tokens in ``folder``; None when there are none, or when ``tokenizer`` would make others."""
    if not (folder / FACTS).is_file():
        return None
    facts = read_json(folder / FACTS)
    if facts["tokenizer"] != fingerprint(tokenizer):
        return None
    return TokenFiles(tuple(folder / name for name in facts["files"]), facts["rows"], facts["longest"])


def fingerprint(tokenizer: Any) -> str:
    """What decides which tokens ``tokenizer`` makes of a conversation: its own content, its template, and the day for
    a template that writes the date."""
    backend, template = getattr(tokenizer, "backend_tokenizer", None), str(tokenizer.chat_template)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    today = date.today().isoformat() if "strftime_now" in template else ""
    return hashlib.sha256("\0".join((content, template, today)).encode()).hexdigest()
