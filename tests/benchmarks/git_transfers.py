"""What git over HTTP costs on the embedded Hub, beside git on a bare repo of this disk, and `cp` of the same files.

Run by `make bench`; writes docs/bench-git.md. Each figure is the median of the runs, clone and push taken in turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from huggingface_hub import HfApi  # noqa: E402
from real_git import address, real_git  # noqa: E402

from hubkit.server import process  # noqa: E402

CASES = {"one file of 4 kB": (1, 4_000, ".txt"), "2,000 files of 2 kB": (2_000, 2_000, ".txt")}


def clock(work: Callable[[], object]) -> float:
    """Seconds of ``work``."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


class Bench:
    """A Hub, a bare repo on disk, and work trees that push to both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.git = folder, real_git(folder / "home")
        self.hub = process.start(folder / "hub", port=0)
        self.api = HfApi(endpoint=self.hub.url, token=self.hub.token)
        self.git("lfs", "install", "--skip-repo", at=folder)
        self.memory = 0

    def targets(self, name: str) -> dict[str, str]:
        """A fresh repo at each place."""
        self.api.create_repo(f"me/{name}")
        bare = self.folder / f"{name}.git"
        url = address(self.hub.url, self.hub.token, f"me/{name}")
        self.git("clone", "-q", "--bare", url, str(bare), at=self.folder)
        return {"Hub": url, "bare repo": bare.as_uri()}

    def run(self, number: int, case: tuple[int, int, str]) -> dict[str, float]:
        """Seconds to push and to clone at each place, and to copy the files."""
        name, (count, size, end) = f"r{number}", case
        targets, seconds, into = self.targets(name), {}, self.folder / "clone"
        work = self.folder / f"{name}-work"
        self.git("clone", "-q", targets["Hub"], str(work), at=self.folder)
        for index in range(count):
            path = work / f"d{index % 50}" / f"{index}{end}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(size) if end == ".bin" else os.urandom(size // 2).hex().encode())
        self.git("add", "-A", at=work)
        self.git("commit", "-qm", "files", at=work)
        for place, url in targets.items():
            seconds[f"push, {place}"] = clock(lambda url=url: self.git("push", "-q", url, "HEAD:main", at=work))
            self.memory = max(self.memory, psutil.Process(self.hub.pid).memory_info().rss)
            seconds[f"clone, {place}"] = clock(lambda url=url: self.git("clone", "-q", url, str(into), at=self.folder))
            shutil.rmtree(into)
        shutil.rmtree(work / ".git")
        copy = ["sh", "-c", f"cp -r {work} {self.folder / 'copy'} && sync {self.folder / 'copy'}"]
        seconds["cp"] = clock(lambda: subprocess.run(copy, check=True))
        for folder in (work, self.folder / "copy", self.folder / f"{name}.git"):
            shutil.rmtree(folder)
        return seconds


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", type=int, default=256, help="MB of the large file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bench-git.md")
    options = parser.parse_args()
    cases = CASES | {f"one file of {options.large} MB in git-lfs": (1, options.large * 10**6, ".bin")}
    rows, number = [], 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            for name, case in cases.items():
                measured = []
                for _ in range(options.runs):
                    number += 1
                    measured.append(bench.run(number, case))
                for act in ("push", "clone"):
                    places = [f"{act}, Hub", f"{act}, bare repo", "cp"]
                    hub, bare, copied = (statistics.median(run[place] for run in measured) for place in places)
                    ratios = f"{hub / bare:.1f} | {hub / copied:.1f}"
                    rows.append(f"| {act}, {name} | {hub:.2f} s | {bare:.2f} s | {copied:.2f} s | {ratios} |")
        finally:
            process.stop(bench.hub.data)
    today = datetime.now(UTC).date().isoformat()
    head = (
        "# Git over HTTP: what it costs\n\nBy `tests/benchmarks/git_transfers.py`: git and git-lfs with the embedded "
        "Hub, with a bare repo on the same disk (`file://`), and `cp` with `sync` of the files.\n\n"
        f"{today}, Python {platform.python_version()}, {os.cpu_count()} cores, median of {options.runs} runs. "
        f"The server held {bench.memory / 1e6:.0f} MB at most.\n\n"
        "| what | Hub | bare repo | cp | Hub : bare repo | Hub : cp |\n|---|---|---|---|---|---|\n"
    )
    options.out.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
