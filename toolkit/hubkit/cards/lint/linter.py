"""All rules applied to the card of a folder, of a repo, or of a single file.

What cannot be checked, because there is no folder beside the card or no Hub that answers, is reported and not guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hubkit.cards.lint import (
    averages,
    chat_template,
    front_matter,
    headings,
    links,
    local_paths,
    placeholders,
    python_blocks,
    scores_in_words,
)
from hubkit.cards.lint.document import Document
from hubkit.cards.lint.rules import GENERATION_PROMPT
from hubkit.cards.metadata import read_block
from hubkit.checks.rules import NO_CARD
from hubkit.checks.source import RepoSource, Source
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.findings import Finding, Level, in_order
from hubkit.hub.client import Hub

CARDS = ("README.md", "adapter/README.md")
"""The paths of the cards of a folder or a repo."""
MAX_CARD_BYTES = 300_000
"""Bytes of a card above which it is not read: a parser of Markdown can be kept busy for long."""
_IN_TEXT = (
    front_matter.find,
    averages.find,
    headings.find,
    placeholders.find,
    local_paths.find,
    scores_in_words.find,
    python_blocks.find,
)
"""The rules that need the card's text alone."""


@dataclass(frozen=True)
class Report:
    """``findings`` in order; ``unchecked`` says what could not be checked, a sentence each."""

    name: str
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing was found that should be fixed; notes are advice."""
        return all(finding.level == "note" for finding in self.findings)

    def count(self, level: Level) -> int:
        """How many findings have this level."""
        return sum(finding.level == level for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{name, clean, errors, warnings, notes, faults, unchecked}``.

        Each fault is also under the keys ``path``, ``what`` and ``todo``.
        """
        faults = [
            {**item.to_json(), "path": item.file, "what": item.message, "todo": item.hint} for item in self.findings
        ]
        counts = {"errors": self.count("error"), "warnings": self.count("warning"), "notes": self.count("note")}
        return {"name": self.name, "clean": self.clean, **counts, "faults": faults, "unchecked": list(self.unchecked)}


def lint_text(text: str, files: Collection[str] | None = None, path: str = "README.md") -> list[Finding]:
    """What is wrong with the card ``text``, as far as it can be found without a network.

    ``files`` are the paths of the folder or repo that has it at ``path``; None: links and layout are not checked.
    """
    return in_order(_in_text(Document.of(text, path), files))


def lint(source: Source, hub: Hub | None = None) -> Report:
    """What is wrong with the cards in ``source``. The base is looked up on ``hub``; None: it is not looked up.

    RefusedError for a card that is too large to be one.
    """
    files = source.files()
    found: list[Finding] = []
    unchecked: list[str] = []
    if "README.md" not in files:
        found.append(NO_CARD.finding("The model card is missing.", "Write README.md.", file="README.md", line=1))
    for path in CARDS:
        if path in files:
            refuse_large(path, files[path].size)
            document = Document.of(source.read(path).decode("utf-8", "replace"), path)
            found += _with_template(_in_text(document, files), source)
            found += chat_template.find(document, source)
            found += _on_hub(document, hub, unchecked, published=isinstance(source, RepoSource))
    return Report(source.name, tuple(in_order(found)), tuple(dict.fromkeys(unchecked)))


def refuse_large(name: str, size: int) -> None:
    """RefusedError when a card of ``size`` bytes is too large to be one; before it is read, where that can be."""
    if size > MAX_CARD_BYTES:
        raise RefusedError(f"{name} is too large for a card ({size:,} bytes).")


def lint_file(text: str, name: str, hub: Hub | None = None) -> Report:
    """What is wrong with a card that is a file ``name`` alone. RefusedError for one that is too large to be a card."""
    refuse_large(name, len(text))
    document = Document.of(text, name)
    unchecked = ["Links, files and the chat template were not checked: the card is a single file."]
    found = [*_in_text(document, None), *_on_hub(document, hub, unchecked)]
    return Report(name, tuple(in_order(found)), tuple(unchecked))


def _in_text(document: Document, files: Collection[str] | None) -> list[Finding]:
    found = [finding for rules in _IN_TEXT for finding in rules(document)]
    if files is not None:
        found += [*links.find(document, files), *front_matter.find_in_files(document, files)]
    return found


def _with_template(findings: list[Finding], source: Source) -> list[Finding]:
    """``findings``, where prompts that open no turn count as much as the template of ``source`` needs them to."""
    if not any(finding.rule == GENERATION_PROMPT.id for finding in findings):
        return findings
    needed = chat_template.needs_generation_prompt(source)
    if needed is None:
        return findings
    kept = [finding for finding in findings if needed or finding.rule != GENERATION_PROMPT.id]
    return [replace(finding, level="warning") if finding.rule == GENERATION_PROMPT.id else finding for finding in kept]


def _on_hub(document: Document, hub: Hub | None, unchecked: list[str], *, published: bool = False) -> list[Finding]:
    """The rules about the base. Of a card that is not published there, the embedded Hub need not have the base."""
    if not front_matter.bases(document):
        return []
    if hub is None:
        unchecked.append("The base and its license were not checked: no Hub is available.")
        return []

    def look_up(repo: str) -> Mapping[str, Any] | None:
        try:
            content = hub.read_file(repo, "README.md", "main")
        except (UsageError, RefusedError):
            if hub.target.embedded and not published:
                unchecked.append(f"The base {repo} is not on the embedded Hub; --hub huggingface checks it there.")
                return {}
            return None
        try:
            return (read_block(content.decode("utf-8", "replace")) or {}) if content else {}
        except YamlError:  # it says nothing then
            return {}

    try:
        return list(front_matter.find_on_hub(document, look_up))
    except HubkitError as error:
        unchecked.append(f"The base and its license were not checked: {error.message}")
        return []
