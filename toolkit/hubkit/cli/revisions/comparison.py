"""`hubkit revisions diff` for people: a comparison as text and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from hubkit.core.numbers import counted, share, short_commit, size
from hubkit.core.output import table
from hubkit.core.printable import printable
from hubkit.core.trees import Change
from hubkit.publishing.revisions import Comparison
from hubkit.publishing.revisions.documents import ABSENT, KeyChange
from hubkit.publishing.revisions.weights import TensorChange, WeightChanges

_MOST = 20
"""Lines of a kind that are shown; --json has them all."""
_CARD_LINES = 200
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def shown(comparison: Comparison) -> Iterator[RenderableType]:
    """The comparison, from files to tensors; parts that do not differ are left out."""
    before, after = comparison.before, comparison.after
    repos = (before.repo, before.repo if after.repo == before.repo else after.repo)
    yield Text(f"{repos[0]} {before.revision} ({short_commit(before.commit)}) → ", "bold").append(
        f"{repos[1] + ' ' if repos[0] != repos[1] else ''}{after.revision} ({short_commit(after.commit)})"
    )
    if not comparison.files:
        yield Text(f"Both have the same {counted(comparison.same_files, 'file')}.")
        return
    counts = ", ".join(f"{len(comparison.files.of_kind(kind))} {kind}" for kind in ("changed", "added", "removed"))
    yield from _part(
        f"Files: {counts}, {comparison.same_files} the same",
        ("", "before#", "after#", "file"),
        [_file_row(change) for change in comparison.files.changes],
    )
    if comparison.measured:
        rows = [
            (printable(name), _figure(name, old), _figure(name, new))
            for name, (old, new) in comparison.measured.items()
        ]
        yield from _part("Measured", ("", f"{before.revision}#", f"{after.revision}#"), rows)
    yield from _keys("Card, front matter", comparison.metadata)
    for path, changes in comparison.settings.items():
        yield from _keys(path, changes)
    if comparison.weights:
        yield from _weights(comparison.weights)
    if comparison.card:
        yield Text("\nCard, text", "bold")
        for line in comparison.card[:_CARD_LINES]:
            yield Text(printable(line), _STYLES.get(line[:1], ""))
        if len(comparison.card) > _CARD_LINES:
            yield Text(f"and {len(comparison.card) - _CARD_LINES} more lines (--json has them all)")
    for note in comparison.notes:
        yield Text(f"Note: {printable(note)}", "yellow")


def _part(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", "bold")
    yield table(heads, rows[:_MOST])
    if len(rows) > _MOST:
        yield Text(f"and {len(rows) - _MOST} more (--json has them all)")


def _file_row(change: Change) -> tuple[str, ...]:
    sizes = (size(entry.size) if entry else "" for entry in (change.before, change.after))
    return (change.kind, *sizes, printable(change.path))


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    is_share = name.startswith("stop rate, ") or name == "benchmark average"
    return share(value) if is_share else f"{value:g}"


def _keys(title: str, changes: Iterable[KeyChange]) -> Iterator[RenderableType]:
    rows = [(printable(change.key), _value(change.before), _value(change.after)) for change in changes]
    if rows:
        yield from _part(title, ("key", "before", "after"), rows)


def _value(value: Any) -> str:
    """A value on one line, shortened."""
    if value is ABSENT:
        return "–"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    text = printable(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _weights(weights: WeightChanges) -> Iterator[RenderableType]:
    if not (weights.changes or weights.same or weights.unread):
        return
    title = f"Tensors: {len(weights.changes)} differ, {weights.same} are the same"
    if weights.unread:
        title += f", {weights.unread} were not read"
    read = [change for change in weights.changes if change.relative is not None]
    rest = [change for change in weights.changes if change.relative is None]
    ordered = [*rest, *sorted(read, key=lambda change: -(change.relative or 0.0))]
    yield from _part(title, ("relative#", "tensor", "what"), [_tensor_row(change) for change in ordered])
    if read:
        yield Text("relative: Frobenius norm of the difference, divided by that of the tensor in A", "dim")
    if weights.unread_bytes:
        yield Text(
            f"Note: {size(weights.unread_bytes)} of tensors were not compared; raise --limit to include them.", "yellow"
        )


def _tensor_row(change: TensorChange) -> tuple[str, ...]:
    old, new = change.before, change.after
    forms = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (old, new) if tensor]
    what = " → ".join(dict.fromkeys(forms))
    folder = change.file.rpartition("/")[0]
    name = printable(f"{folder}: {change.name}" if folder else change.name)
    if old is None or new is None:
        return ("added" if old is None else "removed", name, what)
    if change.relative is not None:
        figure = f"{change.relative:.2e}"
    elif change.read:
        figure = "not finite" if change.difference is None else "from zero"
    else:
        figure = "other shape" if old.shape != new.shape else "not read"
    return (figure, name, what)
