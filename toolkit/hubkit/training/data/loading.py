"""Read the sources of a recipe from the Hub, each by repo id and commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_yaml import YamlError, YamlLimitError, YamlLimits, load_bounded
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.front_matter import find_front_matter
from hubkit.hub.client import Hub
from hubkit.hub.errors import explain
from hubkit.recipe.models import Source

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK = 1000
_DATASET = YamlLimits(characters=4_000_000, values=300_000)
"""Cards of datasets with hundreds of configurations are the largest there are."""


@dataclass(frozen=True)
class Loaded:
    """One source: its commit, columns, rows and the licence that its card names (None when it names none).

    A row that is None could not be decoded as text.
    """

    commit: str
    columns: tuple[str, ...]
    rows: Iterable[Mapping[str, Any] | None]
    licence: str | None


def load(hub: Hub, source: Source) -> Loaded:
    """The rows of ``source`` at the commit that its revision names now.

    Call it in a process whose environment names the same Hub (``Target.environment``). Raises RefusedError when the
    files cannot be read as a table, RemoteError when the Hub does not give them, and what
    :class:`hubkit.hub.client.Hub` raises.
    """
    from datasets import load_dataset

    commit = hub.resolve(source.repo, source.revision, "dataset")
    _refuse_costly_settings(hub, source, commit)
    with _translate_load_errors(hub, source, commit):
        rows = load_dataset(source.repo, revision=commit, split=source.split)
    return Loaded(commit, tuple(rows.column_names), _each(rows), card_licence(hub, source.repo, commit, "dataset"))


def _each(rows: Dataset) -> Iterator[Mapping[str, Any] | None]:
    """The rows, read by blocks; a block that holds bytes which are no text is read row by row."""
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        try:
            block = rows[start:end]
        except UnicodeDecodeError:
            for index in range(start, end):
                try:
                    yield rows[index]
                except UnicodeDecodeError:
                    yield None
        else:
            for index in range(end - start):
                yield {name: values[index] for name, values in block.items()}


def first_columns(hub: Hub, source: Source) -> tuple[str, ...]:
    """The columns of ``source``, read from its first row without loading the rest."""
    from datasets import load_dataset

    commit = hub.resolve(source.repo, source.revision, "dataset")
    _refuse_costly_settings(hub, source, commit)
    with _translate_load_errors(hub, source, commit):
        rows = load_dataset(source.repo, revision=commit, split=source.split, streaming=True)
        return tuple(rows.column_names or next(iter(rows), {}))


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a dataset's training split, read without loading the rest; ``more``: there are others."""

    split: str
    columns: tuple[str, ...]
    rows: list[Mapping[str, Any]]
    more: bool


def first_rows(hub: Hub, repo: str, limit: int) -> FirstRows:
    """At most ``limit`` rows of the split ``train`` of ``repo``; without one, of the first split named ``train...``.

    Called in a process as :func:`load` is, and raises what that raises; UsageError when there is no such split.
    """
    from datasets import load_dataset

    source = Source(repo=repo)
    commit = hub.resolve(repo, source.revision, "dataset")
    _refuse_costly_settings(hub, source, commit)
    with _translate_load_errors(hub, source, commit):
        splits = load_dataset(repo, revision=commit, streaming=True)
        names = [str(name) for name in splits]
        split = "train" if "train" in names else next((name for name in names if name.startswith("train")), None)
        if split is not None:
            rows = list(islice(splits[split], limit + 1))
            columns = tuple(splits[split].column_names or (rows[0] if rows else ()))
            return FirstRows(split, columns, rows[:limit], len(rows) > limit)
    raise UsageError(
        f"{repo} has no split for training; its splits are {', '.join(names)}.",
        hint="Write the recipe by hand, with `split`: see docs/examples/minimal.yaml.",
    )


def _refuse_costly_settings(hub: Hub, source: Source, commit: str) -> None:
    """RefusedError for a dataset whose YAML would cost the datasets library, which has no limits, hours or memory."""
    for name in ("README.md", ".huggingface.yaml"):
        text = _text(hub, source.repo, name, commit, "dataset")
        if problem := _costly(text, front=name == "README.md"):
            raise RefusedError(
                f"{name} of the dataset {source.repo} at {commit[:8]} is not read: {problem}.",
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
        found = explain(error, hub.endpoint, source.repo, commit)
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
    return RefusedError(
        f"{source.repo} at {commit[:8]} cannot be read as a table with the split {source.split!r}: "
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
