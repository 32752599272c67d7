"""The table "works with": a model read by each of several programs, compared with the installed transformers.

found = read_by(["transformers-4", "peft-0.6"], model, questions, home=hubkit_home(), report=print)
[cell.status for cell in found.cells]

The installed transformers reads it first: its token ids and answers are what the others are compared with.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.models.chat import eos
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.readers.asking import Places, Questions, Report, ask
from hubkit.models.readers.comparing import NEAR, NEAR_IN_16_BITS, Cell, Expected, judge
from hubkit.models.readers.environments import environment
from hubkit.models.readers.readers import FORM_NAMES, INSTALLED, Form, Reader, reader_of

SECONDS = 1800.0
"""How long a reader may take for one form of a model."""
_NOT_QUANTIZED = ("0", "1", "32")
"""``general.file_type`` of F32, F16 and BF16 (``llama_ftype`` in llama.h), as llama-cpp-python gives it."""


@dataclass(frozen=True)
class Model:
    """What there is of a model on this machine. ``no_adapter`` and ``no_gguf`` are why there is none.

    ``weights`` has config, weights, tokenizer and template; ``adapter`` is for the weights in ``base``.
    """

    weights: Path
    adapter: Path | None = None
    base: Path | None = None
    gguf: tuple[Path, ...] = ()
    no_adapter: str = "there is no adapter"


@dataclass(frozen=True)
class Matrix:
    """The cells, the day on which they were found (ISO 8601, UTC), and what of the machine they depend on.

    ``errors`` are why readers could not be installed or started, by their names; their cells are "not run".
    ``broken`` are readings that the machine kept from ending: the reader, what it read, and why.
    """

    cells: tuple[Cell, ...]
    date: str
    machine: str
    errors: Mapping[str, HubkitError] = field(default_factory=dict)
    broken: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """``{"cells", "date", "machine"}``."""
        return {"cells": [cell.to_json() for cell in self.cells], "date": self.date, "machine": self.machine}


def read_by(
    names: Sequence[str],
    model: Model,
    questions: Questions,
    *,
    home: Path,
    report: Callable[[str], None],
    timeout: float = SECONDS,
) -> Matrix:
    """Let the readers ``names`` read ``model``, and the installed transformers before them; a cell for each form.

    Environments are made in hubkit's ``home``. UsageError for a name that is no reader.
    """
    readers = [reader_of(INSTALLED), *(reader_of(name) for name in dict.fromkeys(names) if name != INSTALLED)]
    reading = _Reading(model, questions, home, report, timeout, _end_of_turn(model.weights))
    cells = [cell for reader in readers for cell in reading.cells(reader)]
    today = datetime.now(UTC).date().isoformat()
    return Matrix(
        tuple(cells), today, f"{platform.machine()}, {platform.system()}", reading.errors, tuple(reading.broken)
    )


def _end_of_turn(folder: Path) -> EndOfTurn | None:
    from hubkit.models.load import load_tokenizer

    try:
        return eos.find(load_tokenizer(folder))
    except Exception:  # files of anybody fail in any way; what fails is told by the readers' own cells
        return None


@dataclass
class _Reading:
    """One run: the model, what is asked, and what the installed transformers reported of each form."""

    model: Model
    questions: Questions
    home: Path
    report: Callable[[str], None]
    timeout: float
    end_of_turn: EndOfTurn | None

    def __post_init__(self) -> None:
        self.reference: dict[Form, Report] = {}
        self.errors: dict[str, HubkitError] = {}
        self.broken: list[tuple[str, str, str]] = []

    def cells(self, reader: Reader) -> Iterator[Cell]:
        """What ``reader`` makes of each form that it reads."""
        wanted = [(form, places) for form in reader.forms for places in self._places(form)]
        for form in reader.forms:
            if not any(form == found for found, _ in wanted):
                yield Cell(reader.name, form, "not run", self._missing(form))
        if reader.why_not:
            yield from (Cell(reader.name, form, "not run", reader.why_not) for form, _ in wanted)
            return
        if not wanted:
            return
        try:
            folder = environment(reader, self.home, self.report) if reader.lock else None
            cells = [self._cell(reader, folder, form, places) for form, places in wanted]
        except HubkitError as error:  # of this machine, not of the model; the other readers read it
            self.errors[reader.name] = error
            why = error.message.rstrip(".")
            cells = [Cell(reader.name, form, "not run", why) for form, _ in wanted]
        yield from cells

    def _cell(self, reader: Reader, folder: Path | None, form: Form, places: Places) -> Cell:
        known = self.reference.get("adapter" if form == "adapter" else "merged")
        if reader.name != INSTALLED and (known is None or not _usable(known)):
            return Cell(reader.name, form, "not run", "the installed transformers does not read it, to compare with")
        self.report(f"{reader.name}: reading the {form if form != 'gguf' else places.model.name}")
        rendered = {} if known is None or form != "gguf" else _rendered(known)
        found = ask(reader, folder, places, self.questions, rendered=rendered, timeout=self.timeout)
        if found.not_run:
            what = f"{FORM_NAMES[form]} {places.model.name}" if form == "gguf" else FORM_NAMES[form]
            self.broken.append((reader.name, what, found.not_run))
        if reader.name == INSTALLED:
            self.reference[form] = found
            return judge(reader.name, form, found, Expected(None, self.end_of_turn))
        rounded = form == "gguf"
        exact = not rounded or found.content.get("file_type") in _NOT_QUANTIZED
        version = known.content["versions"]["transformers"] if known else ""
        expected = Expected(
            known, self.end_of_turn, f"transformers {version}", NEAR_IN_16_BITS if rounded else NEAR, exact
        )
        cell = judge(reader.name, form, found, expected)
        return replace(cell, file=places.model.name) if form == "gguf" else cell

    def _places(self, form: Form) -> Iterator[Places]:
        model = self.model
        if form in ("merged", "tokenizer"):
            yield Places(model.weights, model.weights)
        elif form == "adapter" and model.adapter and model.base:
            yield Places(model.base, model.weights, model.adapter)
        elif form == "gguf":
            yield from (Places(file, model.weights) for file in model.gguf)

    def _missing(self, form: Form) -> str:
        return self.model.no_adapter if form == "adapter" else "there is no GGUF file"


def _usable(report: Report) -> bool:
    return not report.broke_off and not report.not_run and not report.content.get("failed")


def _rendered(report: Report) -> dict[str, str]:
    found = report.content.get("renderings") or {}
    return {name: item["text"] for name, item in found.items() if "text" in item}
