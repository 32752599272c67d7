"""The GGUF files of a variant: what was written, how far it is from the weights, and how often its answers end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubkit.models.chat.stop_rates import MeasuredRate
from hubkit.recipe.artifact import JsonArtifact

FOLDER = "gguf"
"""The folder of the artifact that holds the files; with `place: folder` it is published under the same name."""


@dataclass(frozen=True)
class GgufBenchmark:
    """The average of a suite (``name`` in a recipe) that llama.cpp reached with a file.

    ``stderr`` is None where the suite has none. The artifact's ``benchmarks-TYPE.json`` has the tasks.
    """

    name: str
    title: str
    value: float
    stderr: float | None


@dataclass(frozen=True)
class GgufFile:
    """One GGUF file. ``largest_error`` and ``relative_error`` are those of the tensor ``worst_tensor``.

    ``relative_error`` is the root mean square of the differences from the merged weights, in terms of that of their
    numbers. ``stops`` are the texts of the tokens that end an answer. ``stop_rate`` is None where it was not measured
    (:attr:`GgufFiles.unmeasured` says why), ``compared_texts`` where llama.cpp's token ids were not compared with
    transformers'. ``benchmarks`` are those that the recipe asks for.
    """

    name: str
    kind: str
    bytes: int
    sha256: str
    worst_tensor: str
    largest_error: float
    relative_error: float
    stops: tuple[str, ...]
    compared_texts: int | None = None
    stop_rate: MeasuredRate | None = None
    benchmarks: tuple[GgufBenchmark, ...] = ()


@dataclass(frozen=True)
class GgufFiles(JsonArtifact):
    """The GGUF files of a variant and, in ``ollama``, the names of Ollama's files beside them.

    ``source`` are sha256 digests of the files that they were written from, by name in the folder of the merged model.
    ``max_new_tokens`` is the token limit of a measured answer; ``llama_cpp`` the version of llama-cpp-python that
    measured. Where nothing was measured both are None, and ``unmeasured`` says why in a clause.
    """

    FILE = "gguf.json"
    architecture: str
    files: tuple[GgufFile, ...]
    ollama: tuple[str, ...]
    notes: tuple[str, ...]
    source: Mapping[str, str]
    max_new_tokens: int | None = None
    llama_cpp: str | None = None
    unmeasured: str | None = None

    def path(self, name: str) -> Path:
        """The file ``name``, a GGUF file or one of Ollama's."""
        return self.folder / FOLDER / name

    def paths(self) -> dict[str, Path]:
        """All the files by name, GGUF files first."""
        return {name: self.path(name) for name in (*(item.name for item in self.files), *self.ollama)}
