"""Time and memory of `hubkit release tiny`, each time in a fresh folder. Run by `make bench`; writes docs/bench.md.

Memory is the proportional set size (PSS) of the command and all its children together, sampled twice a second,
the embedded Hub included: what the machine must have, shared pages counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
HUBKIT = Path(sys.executable).with_name("hubkit")


def pss(root: psutil.Process) -> int:
    """Bytes of PSS of ``root`` and its descendants; a process that ends meanwhile counts nothing."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def hub_process(home: Path) -> psutil.Process | None:
    """The embedded Hub, which is no descendant of the command that started it."""
    asked = subprocess.run(
        [HUBKIT, "hub", "status", "--json"], env=environment(home), capture_output=True, text=True, check=True
    )
    pid = json.loads(asked.stdout).get("pid")
    return psutil.Process(pid) if pid else None


def environment(home: Path) -> dict[str, str]:
    """The user's environment with a home of its own."""
    return {**os.environ, "HUBKIT_HOME": str(home)}


def once(recipe: str) -> dict[str, Any]:
    """One release from nothing: seconds, peak bytes, and the outcome as the command prints it."""
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as folder:
        home = Path(folder)
        began = time.monotonic()
        command = subprocess.Popen(
            [HUBKIT, "release", recipe, "--json"],
            env=environment(home),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        peak, server, root = 0, None, psutil.Process(command.pid)
        try:
            while command.poll() is None:
                if server is None and (home / "hub").is_dir():
                    server = hub_process(home)
                peak = max(peak, pss(root) + (pss(server) if server else 0))
                try:
                    command.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
            seconds = time.monotonic() - began
            outcome = json.loads(command.stdout.read()) if command.stdout else {}
            if command.returncode:
                raise SystemExit(f"the release ended with {command.returncode}: {outcome}")
            shown = subprocess.run(
                [HUBKIT, "runs", "show", outcome["run"], "--json"],
                env=environment(home),
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            subprocess.run([HUBKIT, "hub", "stop", "-q"], env=environment(home), check=False)
        steps = {step["step"]: step["seconds"] for step in json.loads(shown.stdout)["steps"]}
        return {"seconds": seconds, "peak": peak, "outcome": outcome, "steps": steps}


def main() -> None:
    """Measure, print and write docs/bench.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recipe", default="tiny")
    chosen = parser.parse_args()
    runs = []
    for number in range(chosen.repeats):
        runs.append(once(chosen.recipe))
        print(f"run {number + 1}: {runs[-1]['seconds']:.0f} s, peak {runs[-1]['peak'] / 2**30:.2f} GiB", flush=True)
    text = report(runs, chosen.recipe)
    (ROOT / "docs" / "bench.md").write_text(text, encoding="utf-8")
    print(text)


def report(runs: list[dict[str, Any]], recipe: str) -> str:
    """The figures as Markdown."""
    seconds = [run["seconds"] for run in runs]
    peaks = [run["peak"] / 2**30 for run in runs]
    lines = [
        "# What a release costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: `hubkit release {recipe}` from nothing, after "
        f"installing, {len(runs)} times, on {os.cpu_count()} cores ({platform.machine()}, CPU only).",
        "",
        "| figure | median | least | most | aim |",
        "|---|---:|---:|---:|---:|",
        f"| wall time | {statistics.median(seconds):.0f} s | {min(seconds):.0f} s | {max(seconds):.0f} s | 240 s |",
        f"| peak memory (PSS, Hub included) | {statistics.median(peaks):.2f} GiB | {min(peaks):.2f} GiB "
        f"| {max(peaks):.2f} GiB | 3 GiB |",
        "",
        "Seconds by step, medians (the rest is starting processes and importing libraries):",
        "",
        "| step | seconds |",
        "|---|---:|",
    ]
    for step in runs[0]["steps"]:
        lines.append(f"| {step} | {statistics.median(run['steps'][step] for run in runs):.1f} |")
    lines += ["", "Stop rates of these runs (merged, adapter on base, 4-bit):", ""]
    for line in runs[0]["outcome"]["variants"]:
        rates = [
            "; ".join(f"{form} {rate:.1%}" for form, rate in variant["stop_rates"].items())
            for run in runs
            for variant in run["outcome"]["variants"]
            if variant["variant"] == line["variant"]
        ]
        lines.append(f"- `{line['variant']}`: " + " · ".join(rates))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
