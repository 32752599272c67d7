"""Read the sources of a recipe: from the Hub by repo id and commit, from files beside the recipe by their sha256."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_yaml import YamlError, YamlLimitError, YamlLimits, load_bounded
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import digests
from hubkit.core.front_matter import find_front_matter
from hubkit.core.numbers import counted
from hubkit.hub.client import Hub
from hubkit.hub.errors import explain
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Source
from hubkit.training.data import files, mappings

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 1000
"""Rows that are read to find the columns of files, and what is wrong with them."""
_BLOCK = 1000
_DATASET = YamlLimits(characters=4_000_000, values=300_000)
"""Cards of datasets with hundreds of configurations are the largest there are."""


@dataclass(frozen=True)
class Loaded:
    """One source: its commit, columns, rows and the licence that its card names (None when it names none).

    The ``commit`` of files is their sha256. A row that is None could not be decoded as text.
    """

    commit: str
    columns: tuple[str, ...]
    rows: Iterable[Mapping[str, Any] | None]
    licence: str | None


def load(hub: Hub, source: Source, named: Sequence[NamedFile] = ()) -> Loaded:
    """The rows of ``source`` at the commit that its revision names now; of files, which are ``named``, as they are now.

    Call it in a process whose environment names the same Hub (``Target.environment``). Raises RefusedError when the
    files cannot be read as a table, RemoteError when the Hub does not give them, and what
    :class:`hubkit.hub.client.Hub` raises.
    """
    if source.repo is None:
        return _of_files(source, named)
    from datasets import load_dataset

    commit = hub.resolve(source.repo, source.revision, "dataset")
    _refuse_costly_settings(hub, source.repo, commit)
    with _translate_load_errors(hub, source, commit):
        rows = load_dataset(source.repo, source.config, revision=commit, split=source.split)
    return Loaded(commit, tuple(rows.column_names), _each(rows), card_licence(hub, source.repo, commit, "dataset"))


def _of_files(source: Source, named: Sequence[NamedFile]) -> Loaded:
    """The rows of the files of ``source``. RefusedError when one of them is not as it was when it was pinned."""
    missing = [item.path.name for item in named if not item.path.is_file()]
    if missing or not named:
        names = ", ".join(missing) or source.name
        raise UsageError(f"The file {names} does not exist.", hint="Name a file beside the recipe.")
    paths = [item.path for item in named]
    columns = files.columns(islice(files.rows(paths), SAMPLE))
    return Loaded(files.digest(named), columns, _unchanged(named), None)


def _unchanged(named: Sequence[NamedFile]) -> Iterator[Mapping[str, Any] | None]:
    """The rows of the files ``named``. RefusedError when one has other bytes in the end than it was pinned with."""
    for item in named:
        before = item.path.stat()
        if digests(item.path).sha256 != item.digest:
            raise _changed(item)
        yield from files.rows([item.path])
        after = item.path.stat()
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise _changed(item)


def _changed(item: NamedFile) -> RefusedError:
    return RefusedError(f"{item.path.name} changed while it was read.", hint="Run the same command again.")


def _each(rows: Dataset) -> Iterator[Mapping[str, Any] | None]:
    """The rows, read by blocks; a block that holds bytes which are no text is read row by row."""
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        try:
            block = rows[start:end]
        except UnicodeDecodeError:
            for index in range(start, end):
                try:
                    yield {name: files.without_nulls(value) for name, value in rows[index].items()}
                except UnicodeDecodeError:
                    yield None
        else:
            for index in range(end - start):
                yield {name: files.without_nulls(values[index]) for name, values in block.items()}


def first_columns(hub: Hub, source: Source) -> tuple[str, ...]:
    """The columns of the repo of ``source``, read from its first row without loading the rest."""
    from datasets import load_dataset

    if source.repo is None:
        raise ValueError("only a repo has columns without rows")
    commit = hub.resolve(source.repo, source.revision, "dataset")
    _refuse_costly_settings(hub, source.repo, commit)
    split = re.split(r"[\[+(]", source.split)[0].strip()  # a slice has the columns of its split; none is streamed
    with _translate_load_errors(hub, source, commit):
        rows = load_dataset(source.repo, source.config, revision=commit, split=split, streaming=True)
        return tuple(rows.column_names or next(iter(rows), {}))


@dataclass(frozen=True)
class FirstRows:
    """The first rows of files, or of a repo's training split, read without loading the rest; ``more``: there are
    others."""

    split: str
    columns: tuple[str, ...]
    rows: list[Mapping[str, Any]]
    more: bool


def check_files(named: Sequence[NamedFile], source: Source, wanted: mappings.Kind | None) -> mappings.Columns:
    """The form of the files of ``source``, found from their first rows.

    UsageError when none fits, when rows are of two forms, or when none of the rows can be trained on; RefusedError
    when a file is not what its name says.
    """
    found = list(islice(files.rows(item.path for item in named), SAMPLE))
    rows = [row for row in found if row is not None]
    if not found:
        raise UsageError(f"{source.name} has no rows.", hint="Write one row a line, or name another file.")
    form = mappings.find_for(source, files.columns(rows), wanted)
    if source.mapping is None and not source.columns:
        _refuse_mixed_forms(source, found, form, wanted)
    read = list(form.read(found))
    if not any(item.row for item in read):
        first = next((item for item in read if item.reason), None)
        of_them = f"None of the first {counted(SAMPLE, 'row')}" if len(found) == SAMPLE else "No row"
        of_them += f" of {source.name}"
        raise UsageError(
            f"{of_them} can be read as {form.name}{f': {first.reason} (row {first.number})' if first else ''}.",
            hint=mappings.advice(first.reason if first and first.reason else "", form),
        )
    return form


def _refuse_mixed_forms(
    source: Source, found: Sequence[Mapping[str, Any] | None], form: mappings.Columns, wanted: mappings.Kind | None
) -> None:
    """UsageError when a row has none of the columns of ``form`` and those of another form."""
    for index, row in enumerate(found):
        if row is None or not row or form.fits(row):
            continue
        try:
            other = mappings.find_for(source, tuple(row), wanted)
        except UsageError:
            continue
        if other.name != form.name:
            raise UsageError(
                f"{source.name} mixes two forms: row {index} is of the form {other.name} ({', '.join(other.needs)}),"
                f" and others are of the form {form.name} ({', '.join(form.needs)}).",
                hint="Write them to two files and name both in this entry of `data`.",
            )


def first_rows_of_files(paths: Sequence[Path], limit: int) -> FirstRows:
    """At most ``limit`` rows of the files ``paths``. RefusedError when one of them is not what its name says."""
    rows = list(islice(files.rows(paths), limit + 1))
    return FirstRows("train", files.columns(rows), [row for row in rows[:limit] if row is not None], len(rows) > limit)


def first_rows(hub: Hub, repo: str, limit: int) -> FirstRows:
    """At most ``limit`` rows of the split ``train`` of ``repo``; without one, of the first split named ``train...``.

    Called in a process as :func:`load` is, and raises what that raises; UsageError when there is no such split.
    """
    from datasets import load_dataset

    source = Source(repo=repo)
    commit = hub.resolve(repo, source.revision, "dataset")
    _refuse_costly_settings(hub, repo, commit)
    with _translate_load_errors(hub, source, commit):
        splits = load_dataset(repo, revision=commit, streaming=True)
        names = [str(name) for name in splits]
        split = "train" if "train" in names else next((name for name in names if name.startswith("train")), None)
        if split is not None:
            rows = [files.without_nulls(row) for row in islice(splits[split], limit + 1)]
            columns = tuple(splits[split].column_names or (rows[0] if rows else ()))
            return FirstRows(split, columns, rows[:limit], len(rows) > limit)
    raise UsageError(
        f"{repo} has no split for training; its splits are {', '.join(names)}.",
        hint="Write the recipe by hand, with `split`: see docs/examples/minimal.yaml.",
    )


def _refuse_costly_settings(hub: Hub, repo: str, commit: str) -> None:
    """RefusedError for a dataset whose YAML would cost the datasets library, which has no limits, hours or memory."""
    for name in ("README.md", ".huggingface.yaml"):
        text = _text(hub, repo, name, commit, "dataset")
        if problem := _costly(text, front=name == "README.md"):
            raise RefusedError(
                f"{name} of the dataset {repo} at {commit[:8]} is not read: {problem}.",
                hint="Use another dataset, or a copy of this one with a smaller card.",
            )


def _costly(text: str, *, front: bool) -> str | None:
    """Why the YAML in ``text`` (``front``: in its front matter) is too expensive; None when it is not."""
    block = find_front_matter(text) if front else None
    try:
        load_bounded(block.text if block else "" if front else text, limits=_DATASET)
    except YamlLimitError as error:
        return error.problem
    except YamlError:  # the library says so itself
        return None
    return None


def _text(hub: Hub, repo: str, name: str, commit: str, repo_type: Any) -> str:
    return (hub.read_listed(repo, name, commit, repo_type) or b"").decode("utf-8", "replace")


@contextmanager
def _translate_load_errors(hub: Hub, source: Source, commit: str) -> Iterator[None]:
    """Raise errors of the datasets library as HubkitError: RemoteError for those of the Hub."""
    try:
        yield
    except Exception as error:
        found = explain(error, hub.endpoint, source.name, commit)
        # The datasets library asks for many files that do not exist, and reports itself which one it misses.
        if found is not None and not isinstance(found, UsageError):
            raise found from error
        ours = isinstance(error, ValueError | TypeError | RuntimeError | OSError | StopIteration)
        if ours or type(error).__module__.startswith("datasets."):
            raise _unreadable(source, commit, error) from error
        raise


def _unreadable(source: Source, commit: str, error: Exception) -> RefusedError:
    cause = error.__cause__ or error
    lines = ["it has no rows"] if isinstance(cause, StopIteration) else str(cause).strip().splitlines()
    config = f" of the config {source.config!r}" if source.config else ""
    return RefusedError(
        f"{source.name} at {commit[:8]} cannot be read as a table with the split {source.split!r}{config}: "
        f"{lines[0][:300] if lines else type(cause).__name__}",
        hint="Check its files and splits on the Hub; fix the dataset, or set another `split`.",
    )


def card_licence(hub: Hub, repo: str, commit: str, repo_type: Any) -> str | None:
    """The licence in the front matter of the repo's README.md; None when there is none."""
    block = find_front_matter(_text(hub, repo, "README.md", commit, repo_type))
    try:
        metadata = load_bounded(block.text) if block else None
    except YamlError:
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None
