"""Lint: what is wrong with a card, anybody's, found without running anything.

    report = lint(FolderSource(Path("model")), hub)
    faults = lint_text(text, files={"README.md", "header.png"})

A family of rules is a module; :data:`RULES` names them all. What cannot be looked at, because there is no folder
beside the card or no Hub that answers, is said and not guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.cards.lint import links, metadata, python, scores, template, words
from hubkit.cards.lint.document import Document
from hubkit.cards.lint.finding import RULES, Fault
from hubkit.cards.metadata import read_block
from hubkit.checks.checkup.sources import RepoSource, Source
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.hub.client import Hub

__all__ = ["CARDS", "RULES", "Fault", "Report", "lint", "lint_text"]

CARDS = ("README.md", "adapter/README.md")
"""Where the cards of a folder or a repo lie."""
MOST = 300_000
"""Bytes of a card above which it is not looked at: a parser of Markdown can be kept busy for long."""


@dataclass(frozen=True)
class Report:
    """``faults`` in the order of their lines; ``unchecked`` says what could not be looked at, a sentence each."""

    name: str
    faults: tuple[Fault, ...]
    unchecked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "name": self.name, "clean": not self.faults, "faults": [fault.to_json() for fault in self.faults],
            "unchecked": list(self.unchecked),
        }  # fmt: skip


def lint_text(text: str, files: Collection[str] | None = None, path: str = "README.md") -> list[Fault]:
    """The faults of the card ``text`` that can be found without a network.

    ``files`` are the paths in the folder or repo in which it lies at ``path``; None: links and layout are not looked
    at.
    """
    return _ordered(_in_text(Document.of(text, path), files))


def lint(source: Source, hub: Hub | None = None) -> Report:
    """The faults of the cards in ``source``. ``hub`` is where the base is looked up; None: it is not.

    RefusedError for a card that is too large to be one.
    """
    files = source.files()
    faults: list[Fault] = []
    unchecked: list[str] = []
    if "README.md" not in files:
        faults.append(Fault("no-card", "README.md", 1, "There is no card.", "Write README.md."))
    for path in CARDS:
        if path in files:
            refuse_large(path, files[path])
            document = Document.of(source.read(path).decode("utf-8", "replace"), path)
            faults += _in_text(document, files)
            faults += template.find(document, source)
            faults += _on_hub(document, hub, unchecked, published=isinstance(source, RepoSource))
    return Report(source.name, tuple(_ordered(faults)), tuple(dict.fromkeys(unchecked)))


def refuse_large(name: str, size: int) -> None:
    """RefusedError when a card of ``size`` bytes is too large to be one; before it is read, where that can be."""
    if size > MOST:
        raise RefusedError(f"{name} is too large for a card ({size:,} bytes).")


def lint_file(text: str, name: str, hub: Hub | None = None) -> Report:
    """The faults of a card that stands alone, a file called ``name``. RefusedError for one too large to be a card."""
    refuse_large(name, len(text))
    document = Document.of(text, name)
    unchecked = ["Links, files and the chat template were not looked at: the card stands alone."]
    faults = [*_in_text(document, None), *_on_hub(document, hub, unchecked)]
    return Report(name, tuple(_ordered(faults)), tuple(unchecked))


def _in_text(document: Document, files: Collection[str] | None) -> list[Fault]:
    found = [*metadata.find(document), *scores.find(document), *words.find(document), *python.find(document)]
    if files is not None:
        found += [*links.find(document, files), *metadata.find_in_files(document, files)]
    return found


def _on_hub(document: Document, hub: Hub | None, unchecked: list[str], *, published: bool = False) -> list[Fault]:
    """The rules about the base. Of a card that is not published there, the embedded Hub need not have the base."""
    if not metadata.bases(document):
        return []
    if hub is None:
        unchecked.append("The base and its licence were not looked up: there is no Hub to ask.")
        return []

    def look_up(repo: str) -> Mapping[str, Any] | None:
        try:
            content = hub.read_file(repo, "README.md", "main")
        except (UsageError, RefusedError):
            if hub.target.embedded and not published:
                unchecked.append(f"The base {repo} is not on the embedded Hub; --hub huggingface looks it up there.")
                return {}
            return None
        try:
            return (read_block(content.decode("utf-8", "replace")) or {}) if content else {}
        except Exception:  # a stranger's front matter can fail in many ways; it says nothing then
            return {}

    try:
        return list(metadata.find_on_hub(document, look_up))
    except HubkitError as error:
        unchecked.append(f"The base and its licence were not looked up: {error.message}")
        return []


def _ordered(faults: Collection[Fault]) -> list[Fault]:
    return sorted(
        dict.fromkeys(faults),
        key=lambda fault: (CARDS.index(fault.path) if fault.path in CARDS else 0, fault.line, fault.rule),
    )
