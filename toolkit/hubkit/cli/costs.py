"""How the costs of a release are printed: the table of `hubkit plan`, what it rests on, and what was not checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hubkit.core.numbers import rough_duration, rough_size, size
from hubkit.core.output import table
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.core.findings import Finding
    from hubkit.pipeline.costs.estimate import Estimate
    from hubkit.pipeline.jobs import Job

UNKNOWN = "?"
NO_ROOM = "!"
LEAST = "+"


def cost_lines(found: Estimate, jobs: Iterable[Job], free: int, width: int = 80) -> Iterator[RenderableType]:
    """The table of hours, memory, disk and upload: a line for each step, its variants added up.

    Where ``width`` columns are too few for all devices, those in the middle are left out.
    """
    groups: dict[str, list[Job]] = {}
    jobs = [job for job in jobs if job.id not in found.reused]
    if not jobs:
        return
    for job in jobs:
        groups.setdefault(job.id if job.stage_name else job.step.name, []).append(job)
    shorts = [device.short for device in found.devices]
    cells = _cells(found, jobs, groups, shorts)
    while len(shorts) > 2 and _wide(cells) > width:
        shorts.pop(len(shorts) // 2)
        cells = _cells(found, jobs, groups, shorts)
    yield table(cells[0], cells[1:])
    yield from _below(found, jobs, free)


def _wide(cells: Sequence[Sequence[str]]) -> int:
    """Columns that a table of ``cells`` takes."""
    return sum(2 + max(len(cell.rstrip("#")) for cell in column) for column in zip(*cells, strict=True)) - 2


def _cells(
    found: Estimate, jobs: Sequence[Job], groups: Mapping[str, Sequence[Job]], shorts: Sequence[str]
) -> list[list[str]]:
    """The heads and the rows of the table, with the times on the devices ``shorts``."""
    memories = _memories(found)
    rows = [
        [
            name if len(group) == 1 or group[0].stage_name else f"{name} ({len(group)})",
            *(_time(found, group, short) for short in shorts),
            *(_memory(found, group, short) for short in memories),
            _disk(found, group),
            _upload(found, group),
        ]
        for name, group in groups.items()
    ]
    rows = [row for row in rows if any(cell not in _LITTLE for cell in row[1:])]
    sums = [_sum(found, jobs, short) for short in shorts]
    most = [_memory(found, jobs, short) for short in memories]
    rows.append(["sum", *sums, *most, rough_size(found.disk), _upload(found, jobs)])
    heads = [f"{name}#" for name in (*shorts, *("RAM", "VRAM")[-len(memories) :], "disk", "upload")]
    return [["estimated", *heads], *rows]


def _below(found: Estimate, jobs: Sequence[Job], free: int) -> Iterator[str]:
    """What the table cannot show."""
    if not found.complete:
        yield f"{LEAST} and the steps marked {UNKNOWN}, whose time is unknown (see below)."
    for device in found.devices:
        if tight := [job.id for job in jobs if not found.fits(job.id, device.short)]:
            yield f"{NO_ROOM} {device.short}: {_several(tight)} exceed its {size(device.memory)} of memory."
    yield f"Disk: {size(found.disk)} at most, of which {size(found.left)} stay; {size(free)} are free here."


_LITTLE = ("", "0 s", "1 s", "2 s")
"""Cells of steps that are left out of the table: they count in its sum."""
_LARGEST = "H200"


def _memories(found: Estimate) -> list[str]:
    """The devices whose memory is shown: this one, and a GPU when this is none."""
    here = found.devices[0]
    return [here.short] if here.gpu else [here.short, _LARGEST]


def _time(found: Estimate, group: Sequence[Job], short: str) -> str:
    seconds = [found.costs[job.id][short].seconds for job in group]
    known = [item for item in seconds if item is not None]
    if len(known) < len(seconds):
        return UNKNOWN
    mark = "" if all(found.fits(job.id, short) for job in group) else f" {NO_ROOM}"
    return f"{rough_duration(sum(known))}{mark}"


def _sum(found: Estimate, jobs: Sequence[Job], short: str) -> str:
    seconds = found.seconds(short)
    if seconds is None:
        return UNKNOWN
    least = "" if found.complete else LEAST
    mark = "" if all(found.fits(job.id, short) for job in jobs) else f" {NO_ROOM}"
    return f"{rough_duration(seconds)}{least}{mark}"


def _memory(found: Estimate, group: Sequence[Job], short: str) -> str:
    used = [cost.memory.total for job in group if (cost := found.costs[job.id][short]).memory]
    return rough_size(max(used)) if used else ""


def _disk(found: Estimate, group: Sequence[Job]) -> str:
    first = found.devices[0].short
    costs = [found.costs[job.id][first] for job in group]
    written = sum(cost.disk for cost in costs) + max(cost.scratch for cost in costs)
    return rough_size(written) if written else ""


def _upload(found: Estimate, group: Sequence[Job]) -> str:
    first = found.devices[0].short
    sent = sum(found.costs[job.id][first].upload for job in group)
    return rough_size(sent) if sent else ""


def _several(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and 3 other steps'."""
    if len(names) <= 3:
        return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"{', '.join(names[:2])} and {len(names) - 2} other steps"


def note_lines(found: Estimate, unchecked: Sequence[str], findings: Iterable[Finding]) -> Iterator[RenderableType]:
    """What preflight would say of this device, the assumptions, and what was not checked, a line each."""
    if said := [_sentence(finding) for finding in findings]:
        yield "\nOn this device:"
        yield bullets(said)
    if found.assumed and len(found.reused) < len(found.costs):
        yield "\nAssumed (hours may be off by a factor of two):"
        yield bullets(found.assumed)
    if unchecked:
        yield "\nNot checked:"
        yield bullets(unchecked)


def _sentence(finding: Finding) -> str:
    refused = "refused: " if finding.level == "error" else ""
    return f"{refused}{finding.message} {finding.hint or ''}".rstrip()


def bullets(lines: Iterable[str]) -> RenderableType:
    """A list whose wrapped lines are indented."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row(" -", Text(printable(line)))
    return grid
