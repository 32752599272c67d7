"""The card files of a variant, and the source of every number on them.

README.md  adapter-README.md      the cards
gguf/README.md                    the card of the GGUF files, where they have a place of their own
assets/*.png                      their pictures
.eval_results/*.yaml              results for the Hub's leaderboards
memory.json  sampling.json        the memory that the model takes, and how generate samples from it
llama-cpp.json                    the context with which the example loads a GGUF file
comparisons.json                  differences that were computed for the cards
.hubkit/benchmarks.json.gz        the score of every question, for the next release
.hubkit/reported.json             results of runs elsewhere, as the recipe's files report them
numbers.json                      of each card: every number, with its result file and the place in it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.cards.evidence import benchmarks_step, stop_rate_step
from hubkit.cards.measured import Number
from hubkit.core.files import read_json, write_json
from hubkit.recipe.artifact import ArtifactFolder

_NUMBERS = "numbers.json"


@dataclass(frozen=True)
class Headline:
    """The numbers on a card that sum up a variant: the stop rate of each form, and the benchmark average."""

    stop_rates: Mapping[str, float]
    average: float | None


@dataclass(frozen=True)
class WrittenCards(ArtifactFolder):
    """The cards in a folder, and the numbers on each."""

    numbers: Mapping[str, Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, numbers: Mapping[str, Sequence[Number]], folder: Path) -> WrittenCards:
        """The cards in ``folder``, with the ``numbers`` on each."""
        return cls({name: [number.to_json() for number in listed] for name, listed in numbers.items()}, folder=folder)

    @classmethod
    def load(cls, folder: Path) -> WrittenCards:
        """The cards in ``folder``."""
        path = folder / _NUMBERS
        return cls(dict(read_json(path)) if path.is_file() else {}, folder=folder)

    def save(self, folder: Path) -> None:
        """Write ``numbers.json``; the cards are there already."""
        write_json(folder / _NUMBERS, self.numbers)

    def text(self, name: str) -> str | None:
        """The card ``name``; None when there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def headline(self, variant: str) -> Headline:
        """The stop rates and the average of ``variant`` on its cards."""
        rates: dict[str, float] = {}
        average = None
        for number in (item for listed in self.numbers.values() for item in listed):
            place = str(number["pointer"]).strip("/").split("/")
            if number["step"] == stop_rate_step(variant) and place[0] == "forms" and place[2:] == ["rate"]:
                rates[place[1]] = number["value"]
            elif number["step"] == benchmarks_step(variant) and place == ["average", "value"]:
                average = number["value"]
        return Headline(dict(sorted(rates.items())), average)
