"""A mistake in a recipe, where it is in the file, and the one error that lists all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hubkit.core.errors import UsageError
from hubkit.recipe.names import RECIPE_FILE

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Mistake:
    """What is wrong with the value of one key, as a clause: ``("stages", "dpo", "data"), "there is no ..."``."""

    path: KeyPath
    problem: str

    @property
    def message(self) -> str:
        """``stages.dpo.data: `data` has no entry 'x'``."""
        return f"{'.'.join(self.path)}: {self.problem}" if self.path else self.problem


@dataclass(frozen=True)
class Places:
    """In which line of which file each key of a recipe is. Without lines, of a recipe that was read from no file."""

    name: str = RECIPE_FILE
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """The line of the key ``path``, or of the nearest key around it; None without lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def at(self, path: KeyPath) -> str:
        """``hubkit.yaml:31: `` for the key ``path``; nothing without lines."""
        line = self.line(path)
        return f"{self.name}:{line}: " if line is not None else ""

    def of_message(self, message: str) -> str:
        """``hubkit.yaml:31: `` for a message that begins with the path of a key (``stages.dpo.args.beta: ...``).

        That is how the checks of stages name the key that is at fault. Nothing for any other message.
        """
        named = message.partition(": ")[0]
        best: KeyPath = ()
        for path in self.lines:
            dotted = ".".join(path)
            if len(path) > len(best) and (named == dotted or named.startswith(f"{dotted}.")):
                best = path
        return self.at(best) if best else ""


def error_of(mistakes: Iterable[Mistake], places: Places) -> UsageError:
    """The error (exit code 2) that lists ``mistakes``, each once, in the order of the file."""
    ordered = sorted(dict.fromkeys(mistakes), key=lambda item: (places.line(item.path) or 0, item.message))
    listed = [f"  {places.at(item.path)}{item.message}" for item in ordered]
    count = "one mistake" if len(listed) == 1 else f"{len(listed)} mistakes"
    return UsageError(
        f"{places.name} has {count}:\n" + "\n".join(listed),
        hint="`hubkit init` writes a recipe in which every key is explained.",
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'dpo'?`` when one of ``known`` is close to ``word``, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
