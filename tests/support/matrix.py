"""The fault matrix: which test injects which fault, and what came of it, written by the run itself.

A test says by ``@pytest.mark.fault("F3", ...)`` which rows it stands for, and by ``record_property("figure", "...")``
what it measured. With ``HUBKIT_TEST_MATRIX=PATH`` the run writes the table there when it ends.
"""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hubkit import __version__

ROWS = {
    "F1": "killed (`kill -9`) at each line of the journal",
    "F2": "interrupted by SIGINT or SIGTERM",
    "F3": "the Hub answers 500, once to for ever",
    "F4": "the Hub answers 429, with and without a time to wait",
    "F5": "the connection breaks during an upload",
    "F6": "done, but the answer was lost",
    "F7": "the Hub falls silent",
    "F8": "the disk is full",
    "F9": "stored bytes are damaged",
    "F10": "several releases to one branch at once",
    "F11": "the token ends on the way",
    "F12": "another clock; sent on to another host",
    "F13": "the Hub's own disk or database gives out",
    "F14": "a commit or a pull request that the Hub did not finish",
    "L1": "a proxy lies: promotions and rollbacks",
    "L2": "a proxy lies: a release",
    "L3": "a proxy lies: proposals",
    "L4": "a proxy lies: deploying a Space",
    "L5": "a proxy lies: verify, and everything that only reads",
    "S1": "hostile file names in a bundle",
    "S2": "hostile names and addresses sent raw to the Hub",
    "S3": "links, pipes, devices, files swapped on the way",
    "S4": "secrets in what is to be published",
    "S5": "pickles under any name",
    "S6": "unsound safetensors headers",
    "S7": "request bodies made to do harm",
    "S8": "YAML made to do harm",
    "S9": "templates made to do harm",
    "S10": "hostile branch names",
    "S11": "the token in outputs, journals, logs",
    "S12": "changes whose diff is expensive",
    "S13": "terminal escapes in a stranger's text",
    "S14": "a stranger's code block in a clone that looks like one's own",
    "S15": "large configs, safetensors headers and manifests",
    "A1": "a Space that reads what is not its own",
    "A2": "requirements of a Space that name files of the machine",
    "A3": "tokens of few rights: lists, Spaces, pull requests",
    "A4": "signed addresses after the right to read has ended",
    "R1": "a damaged repo in the Hub's data folder",
    "R2": "links in the Hub's data folder",
    "C1": "a wrong recipe",
    "C2": "killed between what a step writes and its manifest",
    "P1": "a Space that does not come up",
    "P2": "no way to the Hub",
    "P3": "the same release again",
}


@dataclass
class Case:
    """One test with one set of parameters."""

    rows: list[str]
    outcome: str = "unfinished"
    seconds: float = 0.0
    figures: dict[str, None] = field(default_factory=dict)


class Matrix:
    """The pytest plugin that collects the cases and writes the table to ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases: dict[str, Case] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = [str(value) for name, value in report.user_properties if name == "fault"]
        if not rows:
            return
        case = self.cases.setdefault(report.nodeid, Case(rows))
        case.seconds += report.duration
        if report.outcome != "passed" or (report.when == "call" and case.outcome == "unfinished"):
            case.outcome = report.outcome
        case.figures |= {str(value): None for name, value in report.user_properties if name == "figure"}

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(self.table(), encoding="utf-8")

    def table(self) -> str:
        lines = [
            "# The fault matrix",
            "",
            "Written by `HUBKIT_TEST_MATRIX=docs/faults.md pytest tests -m fault`. Each fault is injected for real; a"
            " case is a test with one set of parameters; a test may stand for several rows.",
            "",
            f"hubkit {__version__}, {datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()},"
            f" {os.cpu_count()} CPUs, Python {platform.python_version()}.",
            "",
            "| row | fault | tests | cases | outcome | seconds | figures |",
            "|---|---|---|---|---|---|---|",
        ]
        return "\n".join([*lines, *(self._line(row) for row in ROWS)]) + "\n"

    def _line(self, row: str) -> str:
        found = {name: case for name, case in self.cases.items() if row in case.rows}
        if not found:
            return f"| {row} | {ROWS[row]} | 0 | 0 | not tested | | |"
        outcomes: dict[str, int] = defaultdict(int)
        for case in found.values():
            outcomes[case.outcome] += 1
        told = ", ".join(
            f"{outcomes[name]} {name}" for name in ("failed", "unfinished", "passed", "skipped") if outcomes[name]
        )
        tests = len({name.partition("[")[0] for name in found})
        seconds = sum(case.seconds for case in found.values())
        figures = "; ".join(_ranges(figure for case in found.values() for figure in case.figures))
        return (
            f"| {row} | {ROWS[row]} | {tests} | {len(found)} | {told} | {seconds:.1f} | "
            + figures.replace("|", "\\|").replace("\n", " ")
            + " |"
        )


def _ranges(figures: Iterable[str]) -> list[str]:
    """``figures`` without repetition; those that differ in their number only ("label: 1.5 s") as one range."""
    told: dict[str, list[float]] = {}
    for figure in figures:
        shape = re.fullmatch(r"(?P<label>[^:]+): (?P<number>\d+(\.\d+)?) (?P<unit>\S+)", figure)
        values = told.setdefault(f"{shape['label']}: {{}} {shape['unit']}" if shape else figure, [])
        if shape:
            values.append(float(shape["number"]))
    return [
        label.format(f"{min(values):g}" if min(values) == max(values) else f"{min(values):g} to {max(values):g}")
        if values
        else label
        for label, values in told.items()
    ]


def configure(config: pytest.Config) -> None:
    """Register the marker, and the plugin when a table is wanted (in a parallel run the controller alone writes it)."""
    config.addinivalue_line("markers", "fault(row, ...): injects these faults of the matrix (docs/faults.md)")
    if (path := os.environ.get("HUBKIT_TEST_MATRIX")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Matrix(Path(path).absolute()), "hubkit-matrix")


def mark(items: list[pytest.Item]) -> None:
    """Put the rows of each test where the reports carry them. UsageError for a row that there is not."""
    for item in items:
        rows = {str(row) for marker in item.iter_markers("fault") for row in marker.args}
        if unknown := rows - ROWS.keys():
            raise pytest.UsageError(f"{item.nodeid} stands for rows that there are not: {sorted(unknown)}")
        item.user_properties.extend(("fault", row) for row in ROWS if row in rows)
