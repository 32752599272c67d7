"""How long commands take that should be instant, beside `hf`. Run by `make bench`; writes docs/bench-startup.md.

    python tests/benchmarks/startup.py [--home FOLDER]

Each round runs every command once, hubkit's and the nearest one of `hf` in turn, so that both meet the same load.
FOLDER is a HUBKIT_HOME in which `hubkit release tiny` is finished; without it, one is released first (minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
HUBKIT, HF = (Path(sys.executable).with_name(name) for name in ("hubkit", "hf"))
REPO = "hubkit/tiny-hermes-dpo"
HELP_RATIO, LIST_MARGIN, RELEASE_LIMIT = 0.5, 0.2, 1.5
"""The aims: `hubkit --help` to `hf --help`; seconds of `revisions list` beyond its equivalent; a finished release."""


@dataclass
class Timed:
    """One command, and what each round of it took: seconds by the clock and of processor time."""

    name: str
    command: Sequence[str | Path]
    variables: Mapping[str, str] = field(default_factory=dict)
    wall: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def once(self, home: Path) -> None:
        """Run it once. It must end with 0."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            self.command,
            env=environment(home, **self.variables),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )
        self.wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def environment(home: Path, **more: str) -> dict[str, str]:
    """The user's environment with a home of its own. Bytecode is kept there; `hf` does not check for updates."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBKIT_", "PYTHON"))}
    fixed = {
        "HUBKIT_HOME": str(home),
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    return {**kept, **fixed, **more}


def pairs(home: Path) -> list[tuple[Timed, Timed | None]]:
    """Every command to time, with the nearest one of `hf`; None: there is none."""
    shown = subprocess.run(
        [HUBKIT, "hub", "start", "--json"], env=environment(home), capture_output=True, text=True, check=True
    )
    hub = {"HF_ENDPOINT": str(json.loads(shown.stdout)["url"]), "HF_HOME": str(home / "hf-of-hf")}

    def completing(name: str, variable: str, value: str) -> dict[str, str]:
        return {variable: value, "COMP_WORDS": f"{name} re", "COMP_CWORD": "1"}

    return [
        (Timed("`hubkit --help`", [HUBKIT, "--help"]), Timed("`hf --help`", [HF, "--help"])),
        (Timed("`hubkit --version`", [HUBKIT, "--version"]), Timed("`hf version`", [HF, "version"])),
        (
            Timed('completion of "re"', [HUBKIT], completing("hubkit", "_HUBKIT_COMPLETE", "bash_complete")),
            Timed('completion of "re" by `hf`', [HF], completing("hf", "_HF_COMPLETE", "bash_complete")),
        ),
        (Timed("`hubkit hub status`", [HUBKIT, "hub", "status"]), None),
        (
            Timed(f"`hubkit revisions list {REPO}`", [HUBKIT, "revisions", "list", REPO]),
            Timed(f"`hf repos tag list {REPO}`", [HF, "repos", "tag", "list", REPO], hub),
        ),
        (Timed("`hubkit release tiny`, finished", [HUBKIT, "release", "tiny"]), None),
    ]


def measure(home: Path, rounds: int) -> str:
    """Time all commands in turn; the report as Markdown."""
    timed = pairs(home)
    for number in range(rounds + 1):
        for pair in timed:
            for command in filter(None, pair):
                command.once(home)
                if number == 0:  # the first one compiles and fills the page cache
                    command.wall.clear()
                    command.busy.clear()
    return report(timed, rounds)


def middle(values: Sequence[float]) -> str:
    """The median with least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(timed: Sequence[tuple[Timed, Timed | None]], rounds: int) -> str:
    """The figures as Markdown."""
    lines = [
        "# How fast commands start",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: each command {rounds} times, hubkit's and the"
        f" nearest one of `hf` (huggingface_hub {version('huggingface_hub')}) in turn, on {os.cpu_count()} cores"
        f" ({platform.machine()}, Python {platform.python_version()}). The load of the machine was"
        f" {os.getloadavg()[0]:.1f} at the end (one minute). Seconds by the clock and of processor time: medians, with"
        " least and most.",
        "",
        "| command | wall | processor | beside | wall | processor | ratio (wall) |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for ours, theirs in timed:
        cells = [ours.name, middle(ours.wall), middle(ours.busy)]
        if theirs:
            ratio = statistics.median(ours.wall) / statistics.median(theirs.wall)
            cells += [theirs.name, middle(theirs.wall), middle(theirs.busy), f"{ratio:.2f}"]
        else:
            cells += ["", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "`hf` lists no branches; the tags are its nearest equivalent: one request, and hubkit sends several for each"
        " revision. `hf` ran without its check for updates.",
        "",
        "| aim | measured | |",
        "|---|---:|---|",
        *(f"| {aim} | {figure} | {'met' if met else 'MISSED'} |" for aim, figure, met in aims(timed)),
    ]
    return "\n".join(lines) + "\n"


def aims(timed: Sequence[tuple[Timed, Timed | None]]) -> list[tuple[str, str, bool]]:
    """Each aim, what was measured, and whether it is met."""
    medians = {item.name: statistics.median(item.wall) for pair in timed for item in pair if item}
    ratio = medians["`hubkit --help`"] / medians["`hf --help`"]
    margin = medians[f"`hubkit revisions list {REPO}`"] - medians[f"`hf repos tag list {REPO}`"]
    release = medians["`hubkit release tiny`, finished"]
    return [
        (f"`hubkit --help` takes at most {HELP_RATIO:g} of `hf --help`", f"{ratio:.2f}", ratio <= HELP_RATIO),
        (f"`hubkit revisions list` takes at most {LIST_MARGIN:g} s more", f"{margin:+.2f} s", margin <= LIST_MARGIN),
        (f"a finished release ends in under {RELEASE_LIMIT:g} s", f"{release:.2f} s", release < RELEASE_LIMIT),
    ]


def main() -> None:
    """Measure, print and write docs/bench-startup.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--home", type=Path, help="a HUBKIT_HOME in which `hubkit release tiny` is finished")
    chosen = parser.parse_args()
    if chosen.home:
        text = measure(chosen.home.absolute(), chosen.rounds)
    else:
        with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as folder:
            home = Path(folder)
            try:
                Timed("release", [HUBKIT, "release", "tiny", "-q"]).once(home)
                text = measure(home, chosen.rounds)
            finally:
                subprocess.run([HUBKIT, "hub", "stop", "-q"], env=environment(home), check=False)
    print(text)
    (ROOT / "docs" / "bench-startup.md").write_text(text, encoding="utf-8")
    if "MISSED" in text:
        sys.exit("an aim was missed")


if __name__ == "__main__":
    main()
