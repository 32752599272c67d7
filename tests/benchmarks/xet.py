"""One large file up to the embedded Hub and down again: by Xet, by LFS, and by `cp`. Run by `make bench`; writes
docs/bench-xet.md.

Each way meets a fresh Hub. What is timed is the call of the client, in a process of its own; what it takes to import
the client is not counted. The memory is the server's alone, what it shares with nobody (USS), at its highest.
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
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from hubkit.server import process

ROOT = Path(__file__).parents[2]
_CLIENT = """
import time, huggingface_hub as h
api = h.HfApi()
api.create_repo({repo!r}, exist_ok=True)
start = time.monotonic()
{call}
print(time.monotonic() - start)
"""
_UP = "api.upload_file(path_or_fileobj={file!r}, path_in_repo='w.safetensors', repo_id={repo!r})"
_DOWN = "h.hf_hub_download({repo!r}, 'w.safetensors', local_dir={folder!r})"


@dataclass
class Line:
    """One row of the table: a call, its seconds, the server's CPU seconds and its memory in MiB."""

    name: str
    seconds: float
    cpu: float
    memory: int


class Watch:
    """The highest memory of a process."""

    def __init__(self, pid: int) -> None:
        self.process, self.highest, self._ended = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.highest = max(self.highest, self.process.memory_full_info().uss)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def copied(source: Path) -> float:
    """Seconds to copy a file and flush it to disk."""
    target, start = source.with_name("copy"), time.monotonic()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    target.unlink()
    return seconds


def measured(name: str, running: process.Running, home: Path, call: str, repo: str, *, xet: bool) -> Line:
    """Run one call of the client in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": running.url, "HF_TOKEN": running.token, "HF_HOME": str(home)}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
    watch = Watch(running.pid)
    before = sum(watch.process.cpu_times()[:2])
    command = [sys.executable, "-c", _CLIENT.format(repo=repo, call=call)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    watch.end()
    cpu = sum(watch.process.cpu_times()[:2]) - before
    return Line(name, float(done.stdout.split()[-1]), cpu, watch.highest >> 20)


def lines_of(source: Path, *, xet: bool) -> list[Line]:
    """Up, down, and by Xet up once more to another repo, which the Hub need not be sent."""
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    running, way = process.start(folder / "hub", port=0), "Xet" if xet else "LFS"
    home, lines = folder / "home", []
    try:
        up = _UP.format(file=str(source), repo="hubkit/a")
        lines.append(measured(f"{way}: up", running, home, up, "hubkit/a", xet=xet))
        down = _DOWN.format(repo="hubkit/a", folder=str(folder / "down"))
        lines.append(measured(f"{way}: down", running, home, down, "hubkit/a", xet=xet))
        if subprocess.run(["cmp", "-s", source, folder / "down" / "w.safetensors"]).returncode:
            raise SystemExit("The file came back changed.")
        if xet:
            again = _UP.format(file=str(source), repo="hubkit/b")
            lines.append(measured("Xet: up to a second repo", running, home, again, "hubkit/b", xet=xet))
    finally:
        process.stop(folder / "hub")
        shutil.rmtree(folder)
    return lines


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench-xet.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-xet-") as temporary:
        source = Path(temporary) / "w.safetensors"
        with source.open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(2**20))
        rounds, copies = [], []
        for _ in range(options.repeat):
            copies.append(copied(source))
            rounds.append(lines_of(source, xet=True) + lines_of(source, xet=False))
    options.out.write_text(table(rounds, statistics.median(copies), options.mib), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))
    return 0


def table(rounds: list[list[Line]], copy: float, mib: int) -> str:
    """The document: of each row the median."""
    names = f"huggingface_hub {version('huggingface_hub')}, hf-xet {version('hf-xet')}"
    text = [
        "# One large file by Xet and by LFS\n",
        f"A file of {mib:,} MiB of random bytes, which neither compresses nor repeats. {names}; client and server "
        f"share one machine: {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{datetime.now(UTC):%Y-%m-%d}, load average {os.getloadavg()[2]:.0f}. "
        f"Medians of {len(rounds)} rounds; `cp` with fsync takes {copy:.2f} s. Written by `tests/benchmarks/xet.py`.\n",
        "| call | seconds | × `cp` | CPU of the server, s | memory of the server, MiB |",
        "|---|---|---|---|---|",
    ]
    for same in zip(*rounds, strict=True):
        seconds, cpu = (statistics.median(getattr(line, key) for line in same) for key in ("seconds", "cpu"))
        memory = max(line.memory for line in same)
        text.append(f"| {same[0].name} | {seconds:.1f} | {seconds / copy:.1f} | {cpu:.1f} | {memory} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    sys.exit(main())
