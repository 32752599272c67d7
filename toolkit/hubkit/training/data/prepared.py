"""Prepared data: the rows of each dataset, the held-out prompts, and the report of all that was found.

data.json                 the report
prompts.jsonl             held-out prompts, {"messages": [...]} a line
sets/preferences.jsonl    the rows of the dataset `preferences`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.files import write_atomic
from hubkit.recipe.artifact import JsonArtifact
from hubkit.training.data.preparing import DataReport

if TYPE_CHECKING:
    from datasets import Dataset

_PROMPTS = "prompts.jsonl"


@dataclass(frozen=True)
class SourceReport:
    """One source of a dataset: how many rows were read, kept, dropped (by reason) and used.

    ``moved_system``: in how many the system message was moved into the question. ``local``: it is not a repo but files
    of these names, and ``commit`` is their sha256.
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
    local: bool = False


@dataclass(frozen=True)
class DatasetReport:
    """A dataset: its rows to train on, and where they come from."""

    rows: int
    sources: tuple[SourceReport, ...]


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

    level: str
    code: str
    message: str
    accepted: bool = False
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedData(JsonArtifact):
    """The report. The rows lie beside it."""

    FILE = "data.json"
    sets: Mapping[str, DatasetReport]
    prompts: PromptsReport
    stages: Mapping[str, LengthReport] = field(default_factory=dict)
    findings: tuple[SavedFinding, ...] = ()

    @classmethod
    def write(cls, report: DataReport, folder: Path) -> PreparedData:
        """Write the rows and the held-out prompts of ``report`` to ``folder``; what is left to save is returned."""
        for name, rows in report.sets.items():
            _write_lines(folder / rows_file(name), rows)
        _write_lines(folder / _PROMPTS, [{"messages": prompt} for prompt in report.prompts])
        return cls.parse(report.to_json(), folder)

    def rows(self, dataset: str) -> Iterator[dict[str, Any]]:
        """The rows of ``dataset``: lists of messages, by ``prompt``, ``completion``, ``chosen`` and ``rejected``."""
        with (self.folder / rows_file(dataset)).open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def held_out(self, most: int | None = None) -> list[dict[str, Any]]:
        """The held-out prompts, ``{"messages": [...]}`` each; the first ``most`` of them. Empty when there are none."""
        path = self.folder / _PROMPTS
        if not path.is_file():
            return []
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in islice((line for line in lines if line.strip()), most)]


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one dataset, and nothing else of the prepared data."""

    file: Path

    @classmethod
    def load(cls, folder: Path) -> TrainingRows:
        """The rows in the file ``folder``: a part of an artifact is named by its own path."""
        return cls(folder)

    def save(self, folder: Path) -> None:
        """Nothing: :class:`PreparedData` writes them."""

    def dataset(self) -> Dataset:
        """The rows as a dataset in memory."""
        from datasets import Dataset

        with self.file.open(encoding="utf-8") as lines:
            return Dataset.from_list([json.loads(line) for line in lines])


def rows_file(name: str) -> str:
    """The path of the rows of the dataset ``name`` in the artifact: a folder of its own, so any name is free."""
    return f"sets/{name}.jsonl"


def _write_lines(path: Path, rows: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
