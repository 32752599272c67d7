"""GGUF files, downloaded from the Hub, loaded by llama.cpp: the vocabulary, the end of a turn, and some answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.core.libraries import installed
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.gguf.library import RUNTIME, has_runtime
from hubkit.models.gguf.made import GgufFile, GgufFiles
from hubkit.models.gguf.measuring import measure_gguf
from hubkit.models.gguf.runtime import GgufModel

PROMPTS = 2
"""How many of the measured prompts a file is asked again."""
_HINT = "Nothing was promoted. Run `hubkit release --fresh` to write the GGUF files again."


@dataclass(frozen=True)
class LoadedGguf:
    """The file ``name``, loaded by ``llama_cpp`` (a version): how many prompts it was ``asked`` and ``stopped`` at."""

    name: str
    llama_cpp: str
    asked: int
    stopped: int


def load_gguf_back(
    gguf: GgufFiles,
    folder: Path,
    prompts: Sequence[Mapping[str, Any]],
    end_of_turn: EndOfTurn,
    *,
    threads: int | None = None,
    report: Callable[[str, float], None] = lambda words, done: None,
) -> tuple[LoadedGguf, ...]:
    """Load each file of ``gguf`` from ``folder``, where it was downloaded to, and ask it the first ``prompts``.

    Empty where llama-cpp-python is not installed, or was not when the files were written: then the digests alone are
    compared. A file whose stop rate was not measured is asked nothing. ConflictError when llama.cpp does not end
    answers at ``end_of_turn``, or a file of which every measured answer ended has one that does not.
    """
    if gguf.llama_cpp is None or not has_runtime():
        return ()
    found = []
    for place, item in enumerate(gguf.files):
        report(f"{item.name}: loading in llama.cpp", place / len(gguf.files))
        asked = list(prompts[:PROMPTS]) if item.stop_rate and gguf.max_new_tokens else []
        found.append(_loaded(item, folder / item.name, asked, end_of_turn, gguf.max_new_tokens or 0, threads))
    return tuple(found)


def _loaded(
    item: GgufFile,
    path: Path,
    asked: Sequence[Mapping[str, Any]],
    end_of_turn: EndOfTurn,
    max_new_tokens: int,
    threads: int | None,
) -> LoadedGguf:
    with GgufModel(path, vocabulary_only=True) as model:
        if not model.stops_at(end_of_turn.id):
            raise ConflictError(
                f"{item.name}, loaded back from the Hub: llama.cpp does not end an answer at {end_of_turn.token!r}.",
                hint=_HINT,
            )
    stopped = 0
    if asked:
        measured = measure_gguf(
            path, asked, end_of_turn, max_new_tokens=max_new_tokens, kind=item.kind, threads=threads
        )
        stopped = measured.stopped
    if item.stop_rate and item.stop_rate.stopped == item.stop_rate.prompts and stopped < len(asked):
        raise ConflictError(
            f"{item.name}, loaded back from the Hub, is not the file that was measured: an answer that ended then does"
            " not end.",
            hint=_HINT,
        )
    return LoadedGguf(item.name, installed(RUNTIME) or "", len(asked), stopped)
