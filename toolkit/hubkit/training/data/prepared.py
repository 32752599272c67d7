"""Prepared data: the rows of each dataset, the held-out prompts, and the report of all that was found.

data.json                           the report
prompts.jsonl                       held-out prompts, {"messages": [...]} a line
sets/preferences.jsonl              the rows of the dataset `preferences`
tokens/preferences/                 the same rows as token ids (:mod:`hubkit.training.data.tokens`)
evaluation/preferences.jsonl        its rows for the evaluation loss, and evaluation-tokens/preferences/
shown.json                          the first rows of each stage with the tokens that are trained; dropped rows
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hubkit.core.files import read_json, write_atomic, write_json
from hubkit.core.findings import Level
from hubkit.recipe.artifact import JsonArtifact
from hubkit.training.data import tokens
from hubkit.training.data.findings import DataFinding
from hubkit.training.data.preparing import DataReport
from hubkit.training.data.tokens import TokenFiles

if TYPE_CHECKING:
    from datasets import Dataset, Features

_PROMPTS = "prompts.jsonl"
_SHOWN = "shown.json"
_BATCH = 1000


@dataclass(frozen=True)
class SourceReport:
    """One source of a dataset: how many rows were read, kept, dropped (by reason) and used.

    Of the ``kept``, ``held_out`` ask a held-out prompt, ``evaluation`` are for the evaluation loss, and ``used`` are
    trained on. ``moved_system``: in how many the system message was moved into the question. ``local``: it is not a
    repo but files of these names, and ``commit`` is their sha256.
    """

    repo: str
    commit: str
    split: str
    mapping: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    dropped_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str | None = None
    used: int | None = None
    moved_system: int = 0
    held_out: int = 0
    evaluation: int = 0
    local: bool = False


@dataclass(frozen=True)
class DatasetReport:
    """A dataset: its rows to train on, those for the evaluation loss, and where they come from."""

    rows: int
    sources: tuple[SourceReport, ...]
    evaluation: int = 0


@dataclass(frozen=True)
class BenchmarkReport:
    """How many questions of one task are in the training data (:mod:`hubkit.evals.contamination`)."""

    suite: str
    task: str
    questions: int
    overlapping: int
    by_set: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptsReport:
    """The held-out prompts: their number, and the dataset ``set`` from which they were drawn."""

    set: str
    rows: int
    also_in_other_sets: int = 0
    also_trained_on: int = 0


@dataclass(frozen=True)
class LengthReport:
    """What the trainer's ``max_length`` does to the answers of one training stage; shares by side of a row."""

    max_length: int | None
    longest: Mapping[str, int] = field(default_factory=dict)
    truncated_share: Mapping[str, float] = field(default_factory=dict)
    end_of_turn_lost: Mapping[str, float] = field(default_factory=dict)
    closed_once: Mapping[str, float] = field(default_factory=dict)
    prompt_fills: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedFinding:
    """A finding as it is kept in data.json; ``stages`` are the training stages that it concerns."""

    level: Level
    code: str
    message: str
    accepted: bool = False
    stages: tuple[str, ...] = ()

    def restored(self) -> DataFinding:
        """The finding as it was made."""
        return DataFinding(self.level, self.message, rule=self.code, accepted=self.accepted, stages=self.stages)


@dataclass(frozen=True)
class PreparedData(JsonArtifact):
    """The report. The rows lie beside it."""

    FILE = "data.json"
    sets: Mapping[str, DatasetReport]
    prompts: PromptsReport
    stages: Mapping[str, LengthReport] = field(default_factory=dict)
    benchmarks: tuple[BenchmarkReport, ...] = ()
    overlap: Mapping[str, Any] | None = None
    findings: tuple[SavedFinding, ...] = ()

    @classmethod
    def write(cls, report: DataReport, folder: Path) -> PreparedData:
        """Write the held-out prompts and examples of ``report`` beside the rows in ``folder``.

        What is left to save is returned.
        """
        lines = (json.dumps({"messages": prompt}, ensure_ascii=False) + "\n" for prompt in report.prompts)
        write_atomic(folder / _PROMPTS, "".join(lines))
        write_json(folder / _SHOWN, {"examples": report.examples, "dropped": report.excerpts})
        return cls.parse(report.to_json(), folder)

    def shown(self) -> Mapping[str, Any]:
        """``examples``: by stage its first rows, by side each token's text and whether it is trained. ``dropped``: the
        first dropped rows of each reason. Both empty where a version before wrote none."""
        path = self.folder / _SHOWN
        return dict(read_json(path)) if path.is_file() else {"examples": {}, "dropped": []}

    def rows(self, dataset: str) -> Iterator[dict[str, Any]]:
        """The rows of ``dataset``: lists of messages, by ``prompt``, ``completion``, ``chosen`` and ``rejected``."""
        with (self.folder / rows_file(dataset)).open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def held_out(self, most: int | None = None) -> list[dict[str, Any]]:
        """The held-out prompts, ``{"messages": [...]}`` each; the first ``most`` of them. Empty when there are none."""
        return _prompts(self.folder / _PROMPTS, most)


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one dataset, and nothing else of the prepared data that could shape what is trained on them."""

    file: Path

    @classmethod
    def load(cls, folder: Path) -> TrainingRows:
        """The rows in the file ``folder``: a part of an artifact is named by its own path."""
        return cls(folder)

    def save(self, folder: Path) -> None:
        """Nothing: :class:`PreparedData` writes them."""

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.file.name.removesuffix(".jsonl")

    def offer_tools(self) -> bool:
        """Whether some row offers tools, or calls one."""
        with self.file.open(encoding="utf-8", newline="\n") as lines:
            return any('"tools": [' in line or '"tool_calls": [' in line for line in lines)

    def dataset(self, cache: Path | None = None) -> Dataset:
        """The rows as conversations, mapped from a file below ``cache`` (None: a folder of this process)."""
        return _mapped(self.file, cache)

    def tokens(self, tokenizer: Any) -> TokenFiles | None:
        """The rows as token ids of ``tokenizer``; None when they were written by another version or tokenizer."""
        return tokens.find(self._beside(tokens.FOLDERS["sets"]), tokenizer)

    def evaluation_tokens(self, tokenizer: Any) -> TokenFiles | None:
        """The rows for the evaluation loss as token ids; None when there are none."""
        return tokens.find(self._beside(tokens.FOLDERS["evaluation"]), tokenizer)

    def held_out(self, most: int) -> list[dict[str, Any]]:
        """The first ``most`` held-out prompts: to watch a training, never to train on. Empty when there are none."""
        return _prompts(self.file.parent.parent / _PROMPTS, most)

    def numbered(self, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
        """The rows with these ``numbers`` (from 0), found in one pass over the lines."""
        wanted, found = set(numbers), {}
        with self.file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines):
                if number in wanted:
                    found[number] = json.loads(line)
                    if len(found) == len(wanted):
                        break
        return found

    def _beside(self, folder: str) -> Path:
        return self.file.parent.parent / folder / self.name


def _prompts(file: Path, most: int | None) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice((line for line in lines if line.strip()), most)]


def rows_file(name: str) -> str:
    """The path of the rows of the dataset ``name`` in the artifact: a folder of its own, so any name is free."""
    return f"sets/{name}.jsonl"


def _mapped(file: Path, cache: Path | None) -> Dataset:
    from datasets import Dataset

    folder = cache or Path(tempfile.mkdtemp(prefix="hubkit-rows-"))
    if cache is None:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # A name of its own: the library knows what it generated by the path alone, and the file may be another by now.
    named = {"file": file, "once": uuid4().hex}
    found = Dataset.from_generator(_parsed, features=_features(file), gen_kwargs=named, cache_dir=str(folder))
    assert isinstance(found, Dataset)
    return found


def _parsed(file: Path, once: str) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _features(file: Path) -> Features:
    """The types of all rows in ``file``: a message may have keys that those of the first rows lack."""
    import pyarrow as pa
    from datasets import Features

    schema, rows = pa.schema([]), _parsed(file, "")
    while part := list(islice(rows, _BATCH)):
        schema = pa.unify_schemas([schema, pa.Table.from_pylist(part).schema], promote_options="permissive")
    found: Features = Features.from_arrow_schema(schema)
    return found
