"""The recipe's ``readers``: programs that also read what is published, beside those that the release runs with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

ReaderName = Literal["transformers-4", "transformers-4.36", "peft-0.6", "transformers-js", "llama-cpp"]
"""Those of :mod:`hubkit.models.readers.readers` that can be run."""


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a reader is listed twice")
    return names


Readers = Annotated[tuple[ReaderName, ...], AfterValidator(_each_once), Field(strict=False)]
