"""`hubkit revisions diff` for people: a summary, then each part. No line is longer than the terminal is wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from hubkit.cli.revisions.shortening import beside, cut, value_lines
from hubkit.core.numbers import counted, share, short_commit, size
from hubkit.core.output import table
from hubkit.core.printable import printable
from hubkit.core.trees import Change
from hubkit.publishing.revisions import Comparison
from hubkit.publishing.revisions.documents import KeyChange
from hubkit.publishing.revisions.weights import TensorChange, WeightChanges

_MOST = 20
"""Lines of a kind that are shown; --json has them all."""
_CARD_LINES = 200
_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_ALL = "(--json has them all)"


def shown(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """The comparison on ``width`` columns, from files to tensors; parts that do not differ are left out."""
    before, after = comparison.before, comparison.after
    repos = (before.repo, before.repo if after.repo == before.repo else after.repo)
    yield Text(f"{repos[0]} {before.revision} ({short_commit(before.commit)}) → ", "bold").append(
        f"{repos[1] + ' ' if repos[0] != repos[1] else ''}{after.revision} ({short_commit(after.commit)})"
    )
    if not comparison.files:
        yield Text(f"Both have the same {counted(comparison.same_files, 'file')}.")
        return
    yield table(("", ""), [(name, cut(text, width - 14)) for name, text in _summary(comparison)])
    yield from _part("Files", ("", "before#", "after#", "file"), list(map(_file_row, comparison.files.changes)), width)
    if comparison.measured:
        rows = [
            (printable(name), _figure(name, old), _figure(name, new))
            for name, (old, new) in comparison.measured.items()
        ]
        yield from _part("Measured", ("", f"{before.revision}#", f"{after.revision}#"), rows, width, folds=0)
    yield from _keys("Card, front matter", comparison.metadata, width)
    for path, changes in comparison.settings.items():
        yield from _keys(path, changes, width)
    if comparison.weights:
        yield from _weights(comparison.weights, width)
    if comparison.card:
        yield Text("\nCard, text", "bold")
        for line in beside([printable(line) for line in comparison.card[:_CARD_LINES]], width):
            yield Text(line, _STYLES.get(line[:1], ""))
        if len(comparison.card) > _CARD_LINES:
            yield Text(f"and {len(comparison.card) - _CARD_LINES} more lines {_ALL}")
    for note in comparison.notes:
        yield Text(f"Note: {printable(note)}", "yellow")


def _summary(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What differs, in a line for each kind of thing."""
    changed, added, removed = (len(comparison.files.of_kind(kind)) for kind in ("changed", "added", "removed"))
    counts = [f"{changed} changed", f"{added} added" * bool(added), f"{removed} removed" * bool(removed)]
    yield "files", ", ".join([*filter(None, counts), f"{comparison.same_files} the same"])
    if weights := comparison.weights:
        if weights.changes or weights.unread:
            yield "tensors", _tensor_counts(weights)
        elif weights.same:
            yield "tensors", "all the same"
    for name, (old, new) in comparison.measured.items():
        if name in ("stop rate, merged", "stop rate, adapter", "benchmark average"):
            same = old == new
            yield name, f"{_figure(name, old)}, the same" if same else f"{_figure(name, old)} → {_figure(name, new)}"
    for path, changes in comparison.settings.items():
        yield "settings", f"{path}: {_named(changes)}"
    if comparison.metadata:
        yield "card", f"front matter: {_named(comparison.metadata)}"
    if comparison.card:
        plus, minus = (sum(line[:1] == mark and line[:3] != 3 * mark for line in comparison.card) for mark in "+-")
        yield "card", f"text: {counted(plus, 'line')} added, {minus} removed"


def _named(changes: Sequence[KeyChange]) -> str:
    return ", ".join(printable(change.key) for change in changes)


def _part(
    title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int, folds: int = -1
) -> Iterator[RenderableType]:
    """A table under its title, of which the column ``folds`` is shortened to what is left of ``width``."""
    folds %= len(heads)
    rest = (max(len(row[place]) for row in (heads, *rows[:_MOST])) for place in range(len(heads)) if place != folds)
    room = width - sum(rest) - 2 * (len(heads) - 1)
    yield Text(f"\n{title}", "bold")
    yield table(heads, [(*row[:folds], cut(row[folds], room), *row[folds + 1 :]) for row in rows[:_MOST]])
    if len(rows) > _MOST:
        yield Text(f"and {len(rows) - _MOST} more {_ALL}")


def _file_row(change: Change) -> tuple[str, ...]:
    sizes = (size(entry.size) if entry else "" for entry in (change.before, change.after))
    return (change.kind, *sizes, printable(change.path))


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    is_share = name.startswith("stop rate, ") or name == "benchmark average"
    return share(value) if is_share else f"{value:g}"


def _keys(title: str, changes: Iterable[KeyChange], width: int) -> Iterator[RenderableType]:
    changes = list(changes)
    if not changes:
        return
    yield Text(f"\n{title}", "bold")
    for change in changes[:_MOST]:
        for line in value_lines(change, width):
            yield Text(line, _STYLES.get(line.strip()[:1], ""))
    if len(changes) > _MOST:
        yield Text(f"and {len(changes) - _MOST} more {_ALL}")


def _tensor_counts(weights: WeightChanges) -> str:
    unread = f", {weights.unread} were not read" if weights.unread else ""
    return f"{len(weights.changes)} differ, {weights.same} are the same{unread}"


def _weights(weights: WeightChanges, width: int) -> Iterator[RenderableType]:
    if not (weights.changes or weights.same or weights.unread):
        return
    read = [change for change in weights.changes if change.relative is not None]
    rest = [change for change in weights.changes if change.relative is None]
    ordered = [*rest, *sorted(read, key=lambda change: -(change.relative or 0.0))]
    title = f"Tensors: {_tensor_counts(weights)}"
    yield from _part(title, ("relative#", "tensor", "what"), list(map(_tensor_row, ordered)), width, folds=1)
    if read:
        yield Text("relative: norm of the difference, divided by that of the tensor before", "dim")
    if weights.unread_bytes:
        yield Text(f"Note: {size(weights.unread_bytes)} of tensors were not compared; raise --limit.", "yellow")


def _tensor_row(change: TensorChange) -> tuple[str, ...]:
    old, new = change.before, change.after
    forms = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (old, new) if tensor]
    what = " → ".join(dict.fromkeys(forms))
    folder = change.file.rpartition("/")[0]
    own = change.name.removeprefix("base_model.model.")  # PEFT writes it before every name
    name = printable(f"{folder}: {own}" if folder else change.name)
    if old is None or new is None:
        return ("added" if old is None else "removed", name, what)
    if change.relative is not None:
        figure = f"{change.relative:.3g}"
    elif change.read:
        figure = "not finite" if change.difference is None else "from zero"
    else:
        figure = "other shape" if old.shape != new.shape else "not read"
    return (figure, name, what)
