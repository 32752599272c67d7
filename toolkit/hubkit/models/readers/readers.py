"""The programs that a model is read by: their names, their pinned packages, and what of a model each reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubkit.core.errors import UsageError

Form = Literal["merged", "adapter", "tokenizer", "gguf"]
"""What of a model is read: its weights, its adapter on the base, its tokenizer and chat template, a GGUF file."""
FORM_NAMES: dict[Form, str] = {
    "merged": "merged weights",
    "adapter": "adapter on its base",
    "tokenizer": "tokenizer and chat template",
    "gguf": "GGUF file",
}
_HERE = Path(__file__).parent
INSTALLED = "transformers"


@dataclass(frozen=True)
class Reader:
    """A program in pinned versions. ``lock`` is a file of pip, or a folder of npm; None: what hubkit runs with.

    ``why_not`` is why it cannot be run at all; ``disk`` is what its environment takes on disk, about.
    """

    name: str
    what: str
    forms: tuple[Form, ...]
    script: Path
    lock: Path | None = None
    why_not: str | None = None
    disk: int = 0

    @property
    def by_npm(self) -> bool:
        """Whether it runs in Node."""
        return self.lock is not None and self.lock.is_dir()


def _transformers(name: str, what: str, forms: tuple[Form, ...], lock: str | None) -> Reader:
    script = _HERE / "in_transformers.py"
    return (
        Reader(name, what, forms, script, _HERE / "locks" / lock, disk=370_000_000)
        if lock
        else Reader(name, what, forms, script)
    )


READERS = (
    _transformers(INSTALLED, "the installed transformers and PEFT", ("merged", "adapter"), None),
    _transformers(
        "transformers-4", "the last transformers 4, with PEFT 0.18", ("merged", "adapter"), "transformers-4.txt"
    ),
    _transformers(
        "transformers-4.36", "transformers and PEFT of December 2023", ("merged", "adapter"), "transformers-4.36.txt"
    ),
    _transformers("peft-0.6", "PEFT 0.6 with the last transformers 4", ("adapter",), "peft-0.6.txt"),
    Reader(
        "transformers-js", "transformers.js in Node: it runs ONNX, so its tokenizer alone", ("tokenizer",),
        _HERE / "in_transformers_js.mjs", _HERE / "locks" / "transformers-js", disk=480_000_000,
    ),
    Reader(
        "llama-cpp", "llama.cpp, by llama-cpp-python", ("gguf",), _HERE / "in_llama_cpp.py",
        _HERE / "locks" / "llama-cpp.txt", disk=145_000_000,
    ),
    Reader(
        "vllm", "vLLM", ("merged",), _HERE / "in_transformers.py",
        why_not="hubkit has no environment for vLLM: it needs a GPU, and was not tried on one",
    ),
)  # fmt: skip
NAMES = tuple(reader.name for reader in READERS)


def reader_of(name: str) -> Reader:
    """The reader called ``name``; UsageError when there is none."""
    for reader in READERS:
        if reader.name == name:
            return reader
    raise UsageError(f"There is no reader {name!r}.", hint=f"Choose of {', '.join(NAMES)}.")
