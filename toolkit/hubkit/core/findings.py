"""What a check, lint, the screening or the card validation finds: one shape and one order; and the rules behind it.

A rule is registered where it is implemented:

    NO_CARD = rule("no-card", "warning", "There is no README.md.", "Without a card nobody knows ...", "check", "lint")
    yield NO_CARD.finding("There is no model card (README.md).", "Write README.md.")

``hubkit rules`` lists all of them. The levels are those of SARIF, the format in which code scanners report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
"""``error``: the Hub, a library or Python refuses it, and a release stops. ``warning``: most likely wrong. ``note``:
advice."""
Command = Literal["check", "lint", "screening", "validate", "preflight", "data"]
"""What applies a rule: `hubkit check`, `hubkit card lint`, what is run over every file before it is published, what
is run over every card that hubkit writes, the checks before a release begins, and what is run over rows of data."""
_ORDER: Mapping[Level, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``message`` and ``hint`` are sentences, ``hint`` is what to do next.

    ``rule`` names the :class:`Rule` that found it, ``file`` is a path in the folder or repo, ``line`` counts from 1.
    ``exit_code`` is that of the command that an error stops.
    """

    level: Level
    message: str
    hint: str | None = None
    exit_code: int = 3
    rule: str = "stage"
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """``README.md:12``, ``README.md``, or nothing; a name that would steer a terminal is written out."""
        if self.file is None:
            return ""
        name = self.file if self.file.isprintable() and self.file else ascii(self.file)
        return f"{name}:{self.line}" if self.line else name

    @property
    def sentence(self) -> str:
        """The finding in one line, for a list within an error: ``README.md:12: Line 12 holds ... [secret]``."""
        return f"{self.place}: {self.message} [{self.rule}]" if self.file is not None else f"{self.message}"

    def to_json(self) -> dict[str, Any]:
        """``{level, message, hint, exit_code, rule, file, line}``."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """What can be found: ``finds`` and ``why`` are a sentence each, ``used_by`` the commands that apply it.

    ``evidence`` says of an error who refuses it, and where that is documented.
    """

    id: str
    level: Level
    finds: str
    why: str
    used_by: tuple[Command, ...]
    evidence: str = ""

    def finding(
        self,
        message: str,
        hint: str | None = None,
        *,
        file: str | None = None,
        line: int | None = None,
        level: Level | None = None,
        exit_code: int = 3,
    ) -> Finding:
        """A finding of this rule. ``level`` where it is another than the rule's own."""
        return Finding(level or self.level, message, hint, exit_code, self.id, file, line)

    def to_json(self) -> dict[str, Any]:
        """``{id, level, finds, why, used_by, evidence}``."""
        return {**asdict(self), "used_by": list(self.used_by)}


_registered: dict[str, Rule] = {}


def rule(id: str, level: Level, finds: str, why: str, *used_by: Command, evidence: str = "") -> Rule:
    """Register and return a rule. ValueError when another has its ``id``."""
    if id in _registered:
        raise ValueError(f"There are two rules {id!r}.")
    _registered[id] = made = Rule(id, level, finds, why, used_by, evidence)
    return made


OLD_RULE_IDS: Mapping[str, str] = {
    "licence-missing": "license-missing",
    "licence-mismatch": "license-mismatch",
    "licence-name": "license-name",
}
"""Ids of earlier versions, with today's; `hubkit rules` accepts both."""


def registered_rules() -> Mapping[str, Rule]:
    """The rules of all modules that are imported, by id. :mod:`hubkit.cli.rules` imports those that have any."""
    return MappingProxyType(_registered)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """``findings`` without repetitions: errors first, then by file and line."""
    return sorted(
        dict.fromkeys(findings), key=lambda item: (_ORDER[item.level], item.file or "", item.line or 0, item.rule)
    )


rule(
    "stage",
    "error",
    "A stage's own check failed.",
    "Each stage runs its cheap checks before a release begins.",
    "preflight",
)
