"""Results of one's own runs elsewhere, ``evaluate.results``: read, named by their file, and never mixed with others.

Each file is one source. Its numbers are in its own column, its averages are over its own numbers, and the branch
publishes what was read of it, with the file's digest, as ``.hubkit/reported.json``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.files import digests
from hubkit.evals.measurements import Part
from hubkit.evals.plausibility import implausible_values
from hubkit.evals.readers import read_path
from hubkit.evals.results import Results, Subject

REPORTED_FILE = ".hubkit/reported.json"
"""Where a branch keeps what was read."""
BASE = "base"
"""The column of the base; every other one is a variant."""


class Reported(Part):
    """What ``file`` reports of ``column``, the base or a variant. ``model`` is the name that it gives, '' for none."""

    column: str
    file: str
    sha256: str
    model: str
    results: Results


class ReportedResults(Part):
    """All that was reported, a source each."""

    sources: tuple[Reported, ...] = ()


@dataclass(frozen=True)
class Doubt:
    """What deserves a second look in a file: ``message`` is a sentence that names it."""

    column: str
    message: str


def find_files(folder: Path, pattern: str) -> list[Path]:
    """The files and folders that ``pattern`` of the recipe in ``folder`` names. UsageError when there are none."""
    anchor = Path(pattern).anchor
    inner = pattern.removeprefix(anchor).removeprefix("./")
    root = Path(anchor) if anchor else folder.absolute()
    found = sorted(Path(os.path.normpath(path)) for path in root.glob(inner)) if inner else []
    if not found:
        raise UsageError(f"There is no file {pattern!r} beside the recipe.", hint="Change evaluate.results.")
    return found


def read_reported(folder: Path, asked: Mapping[str, Sequence[str]]) -> ReportedResults:
    """All files that ``evaluate.results`` names, in order; ``folder`` is the recipe's.

    UsageError for a pattern without a file, and for a file that holds no results.
    """
    sources: dict[tuple[str, str], Reported] = {}
    for column, patterns in asked.items():
        for pattern in patterns:
            for path in find_files(folder, pattern):
                for found in read_path(path):
                    source = _source(column, found.path, folder, found.results)
                    sources.setdefault((column, source.file), source)
    return ReportedResults(sources=tuple(sources.values()))


def _source(column: str, path: Path, folder: Path, results: Results) -> Reported:
    inside = path.is_relative_to(folder.absolute())
    stem = results.subject.repo == path.stem  # what readers call a model that the file does not name
    model = "" if stem else _public(results.subject.repo)
    subject = Subject(repo=model, commit=results.subject.commit, form="other")
    return Reported(
        column=column,
        file=path.relative_to(folder.absolute()).as_posix() if inside else path.name,
        sha256=digests(path).sha256,
        model=model,
        results=results.model_copy(update={"subject": subject}),
    )


def _public(name: str) -> str:
    """The name of a model; of a path on somebody's machine its last part alone."""
    if name.startswith(("/", "~", "./", "../", ".\\")) or "\\" in name or name.count("/") > 1:
        return PurePath(name.replace("\\", "/")).name
    return name


def digest_of_files(folder: Path, patterns: Sequence[str]) -> str:
    """A digest over the names and contents of all files that ``patterns`` name; empty when one names none."""
    found = hashlib.sha256()
    for pattern in patterns:
        try:
            paths = find_files(folder, pattern)
        except HubkitError:
            return ""
        for path in paths:
            for file in [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file()):
                found.update(f"{file.relative_to(path.parent).as_posix()}\n{digests(file).sha256}\n".encode())
    return found.hexdigest()


def doubts(reported: ReportedResults, *, repo: str, base: str, known: Sequence[str] = ()) -> Iterator[Doubt]:
    """What deserves a second look: values that are implausible, and files that name another model.

    ``repo`` is that of the release, ``base`` its base, ``known`` other names that the variants go by.
    """
    for source in reported.sources:
        if problem := _another_model(source, repo, base, known):
            yield Doubt(source.column, f"{source.file} {problem}")
        for item in implausible_values(source.results):
            yield Doubt(source.column, f"{source.file}: {item.message}")


def _another_model(source: Reported, repo: str, base: str, known: Sequence[str]) -> str | None:
    """What is wrong with the model that a file names; None when it is the right one, or cannot be told."""
    named = source.model
    ours = {name.lower() for name in (repo, repo.rpartition("/")[2], *known)}
    if not named or named.lower() in ({base.lower()} if source.column == BASE else ours):
        return None
    if source.column == BASE and named.lower() in ours:
        return f"is given for the base, and reports the model {named}: is it a variant's?"
    if source.column != BASE and named.lower() == base.lower():
        return f"is given for {source.column}, and reports the base, {named}."
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        expected = base if source.column == BASE else repo
        return f"reports the model {named}, which is not {expected}."
    return None
