"""Keys of the recipe about benchmarks that are more than a value: the conditions on them, and files with results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from hubkit.recipe.names import MAIN


class BenchmarkCondition(NamedTuple):
    """A benchmark must not be worse than that of the base, or of what the branch publishes now, by more than this."""

    benchmark: str
    against: Literal["base", "current"]
    margin: float


def _parts(value: str) -> tuple[str, float]:
    """Whom a benchmark is compared with, and how much worse it may be. ValueError for anything else."""
    found = re.fullmatch(r"(base|current)(?:\s*-\s*(0?\.\d+|0))?", value.strip())
    if not found:
        raise ValueError(f"{value!r} is neither 'base - 0.01' nor 'current - 0.01'")
    return found[1], float(found[2] or 0)


def _limit(value: str) -> str:
    _parts(value)
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _of_main(value: Any) -> Any:
    return {MAIN: value} if isinstance(value, str | list | tuple) else value


Limit = Annotated[str, AfterValidator(_limit)]
Limits = Annotated[tuple[Limit, ...], BeforeValidator(_several), Field(strict=False)]
"""'base - 0.01', 'current - 0.01', or several of them."""
Patterns = Annotated[tuple[str, ...], BeforeValidator(_several), Field(strict=False)]
ResultFiles = Annotated[Mapping[str, Patterns], BeforeValidator(_of_main)]
"""Files with results, by variant and 'base'; a list is main's."""


def conditions(limits: Mapping[str, Iterable[str]]) -> Iterator[BenchmarkCondition]:
    """The conditions in ``limits``, which are valid, one by one."""
    for benchmark, texts in limits.items():
        for against, margin in dict.fromkeys(map(_parts, texts)):
            yield BenchmarkCondition(benchmark, "base" if against == "base" else "current", margin)
