"""Read the sources of a recipe from the Hub, each by repo id and commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from hubkit.core.errors import RefusedError, UsageError
from hubkit.hub.client import Hub
from hubkit.hub.errors import explain
from hubkit.recipe.models import Source

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK = 1000


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
    with _translate_load_errors(hub, source, commit):
        rows = load_dataset(source.repo, revision=commit, split=source.split, streaming=True)
        return tuple(rows.column_names or next(iter(rows), {}))


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
        ours = isinstance(error, ValueError | TypeError | RuntimeError | OSError)
        if ours or type(error).__module__.startswith("datasets."):
            raise _unreadable(source, commit, error) from error
        raise


def _unreadable(source: Source, commit: str, error: Exception) -> RefusedError:
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return RefusedError(
        f"{source.repo} at {commit[:8]} cannot be read as a table with the split {source.split!r}: "
        f"{lines[0][:300] if lines else type(cause).__name__}",
        hint="Check its files and splits on the Hub; fix the dataset, or set another `split`.",
    )


def card_licence(hub: Hub, repo: str, commit: str, repo_type: Any) -> str | None:
    """The licence in the front matter of the repo's README.md; None when there is none."""
    body = hub.read_file(repo, "README.md", commit, repo_type)
    parts = (body or b"").decode("utf-8", "replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        metadata = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None
