"""The embedded Hub under the sizes that users meet: many branches, files and repos, small commits, large files.

Run by `make bench`; writes docs/bench-server.md. What is timed is each call by the clock and the processor time of the
server that it took; transfers stand beside `git push`/`git clone` with git-lfs on a bare repo of this disk, and `cp`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from huggingface_hub import CommitOperationAdd, HfApi  # noqa: E402
from huggingface_hub.utils import disable_progress_bars, httpx  # noqa: E402
from prepared_requests import prepared, send_all  # noqa: E402
from real_git import real_git  # noqa: E402

from hubkit.server import process  # noqa: E402

_WATCH = 0.05


@dataclass
class Row:
    """One line of the page: what was done, how often, its seconds each time, and the server's processor time for it."""

    name: str
    aim: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    beside: dict[str, list[float]] = field(default_factory=dict)
    per: int = 1
    rate: bool = False


class Server:
    """A fresh Hub, its processor time, and the most memory that it held for itself."""

    def __init__(self, folder: Path) -> None:
        self.running = process.start(folder / "hub", port=0)
        self.process, self.highest, self._ended = psutil.Process(self.running.pid), 0, threading.Event()
        self.api = HfApi(endpoint=self.running.url, token=self.running.token)
        headers = {"Authorization": f"Bearer {self.running.token}"}
        self.raw = httpx.Client(base_url=self.running.url, headers=headers, timeout=600)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH):
            self.highest = max(self.highest, self.process.memory_full_info().uss)

    def cpu(self) -> float:
        """Seconds of processor time so far, those of its children that ended included."""
        return sum(self.process.cpu_times()[:4])

    def measure(self, row: Row, work: Callable[[], Any], repeat: int = 5) -> Row:
        """Do it some times; each is ``row.per`` of what the row counts."""
        for _ in range(repeat):
            before, begun = self.cpu(), time.perf_counter()
            work()
            row.seconds.append((time.perf_counter() - begun) / row.per)
            row.cpu.append((self.cpu() - before) / row.per)
        return row

    def get(self, path: str) -> Any:
        """A plain GET: no client's own time is in it."""
        return self.raw.get(path).raise_for_status().json()

    def close(self) -> None:
        """Stop it."""
        self._ended.set()
        self._thread.join()
        process.stop(self.running.data)


def times(count: int, work: Callable[[], Any]) -> Callable[[], None]:
    """``work``, so many times: the kernel counts processor time in hundredths of a second."""

    def run() -> None:
        for _ in range(count):
            work()

    return run


def files_of(count: int, size: int, end: str = ".txt") -> list[CommitOperationAdd]:
    """Files of random bytes in folders of a hundred."""
    return [
        CommitOperationAdd(f"d{number // 100}/{number}{end}", os.urandom(size // 2).hex().encode())
        for number in range(count)
    ]


def branched(server: Server, repo: str, files: int, branches: int) -> None:
    """A repo with so many files on main, and so many branches with a commit of their own."""
    server.api.create_repo(repo)
    for start in range(0, files, 4000):
        server.api.create_commit(repo, files_of(files, 64)[start : start + 4000], commit_message="files")
    for number in range(branches):
        server.raw.post(f"/api/models/{repo}/branch/b{number}", json={}).raise_for_status()


def reading(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """Refs, infos and lists."""
    branched(server, "hubkit/many-refs", 0, 1000)
    row = Row("refs of 1,000 branches", "50 ms", per=10)
    yield server.measure(row, times(10, lambda: server.get("/api/models/hubkit/many-refs/refs")))
    row = Row("the same by the client (`list_repo_refs`)", per=10)
    yield server.measure(row, times(10, lambda: server.api.list_repo_refs("hubkit/many-refs")))
    branched(server, "hubkit/many-files", 8000, 300)
    row = Row("info of 8,000 files and 300 branches", "50 ms", per=10)
    yield server.measure(row, times(10, lambda: server.get("/api/models/hubkit/many-files")))
    row = Row("the same by the client (`model_info`)", per=10)
    yield server.measure(row, times(10, lambda: server.api.model_info("hubkit/many-files")))
    row = Row("the same with sizes and digests (`files_metadata`)", per=5)
    yield server.measure(row, times(5, lambda: server.get("/api/models/hubkit/many-files?blobs=true")))
    row = Row("the tree of 8,000 files, every page", per=1)
    yield server.measure(row, lambda: list(server.api.list_repo_tree("hubkit/many-files", recursive=True)))
    for number in range(1000):
        server.raw.post("/api/repos/create", json={"name": f"hubkit/r{number}", "type": "dataset"}).raise_for_status()
    server.get("/api/datasets?limit=1000")  # the first reads their commits
    row = Row("a list of 1,000 repos", "100 ms", per=5)
    yield server.measure(row, times(5, lambda: server.get("/api/datasets?limit=1000")))
    row = Row("the same, `full=true`", per=5)
    yield server.measure(row, times(5, lambda: server.get("/api/datasets?limit=1000&full=true")))
    row = Row("the same by the client (`list_datasets`)", per=5)
    yield server.measure(row, times(5, lambda: list(server.api.list_datasets(limit=1000))))


def small_commits(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """Commits of one small file."""
    api, count = server.api, 50
    api.create_repo("hubkit/commits")
    numbers = iter(range(10**6))

    def by_client(repo: str = "hubkit/commits") -> None:
        add = CommitOperationAdd(f"f{next(numbers)}.txt", b"x")
        api.create_commit(repo, [add], commit_message="one")

    def requests(repo: str, count: int) -> list[bytes]:
        lines = '{"key":"header","value":{"summary":"one"}}\n{"key":"file","value":{"path":"f%d.txt","content":"x"}}\n'
        path = f"/api/models/{repo}/commit/main"
        return [prepared(server.running, path, (lines % next(numbers)).encode()) for _ in range(count)]

    def measured(row: Row, repos: list[str]) -> Row:
        """Each repo by a connection of its own; the requests are made before the clock starts."""
        ready = iter([[requests(repo, row.per // len(repos)) for repo in repos] for _ in range(5)])
        return server.measure(row, lambda: send_all(server.running, next(ready)))

    yield server.measure(Row("small commits by the client", "30/s", per=count, rate=True), times(count, by_client))
    yield measured(Row("small commits at the API, one after another", per=200, rate=True), ["hubkit/commits"])
    repos = [f"hubkit/c{number}" for number in range(8)]
    for repo in repos:
        api.create_repo(repo)
    yield measured(Row("small commits at the API, 8 repos at once", "300/s", per=400, rate=True), repos)


def beside_git(folder: Path, sources: Path) -> dict[str, list[float]]:
    """Seconds of `git push` of a folder to a bare repo on this disk, of `git clone` from it, and of `cp`."""
    git = real_git(folder / "home")
    bare, work, clone = folder / "bare.git", folder / "work", folder / "clone"
    git("lfs", "install", "--skip-repo", at=folder)
    git("init", "-q", "--bare", "-b", "main", str(bare), at=folder)
    shutil.copytree(sources, work)
    (work / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")

    def push() -> None:
        git("init", "-q", "-b", "main", at=work)
        git("add", "-A", at=work)
        git("commit", "-qm", "files", at=work)
        git("push", "-q", bare.as_uri(), "HEAD:main", at=work)

    found = {
        "`git push`": [clock(push)],
        "`git clone`": [clock(lambda: git("clone", "-q", bare.as_uri(), str(clone), at=folder))],
    }
    copy = folder / "copy"
    found["`cp`"] = [clock(lambda: subprocess.run(["sh", "-c", f"cp -r {sources} {copy} && sync {copy}"], check=True))]
    for path in (bare, work, clone, copy):
        shutil.rmtree(path)
    return found


def clock(work: Callable[[], Any]) -> float:
    """Seconds of ``work``."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def written(folder: Path, count: int, size: int, end: str) -> Path:
    """A folder of so many files of random bytes."""
    for number in range(count):
        path = folder / f"d{number // 100}" / f"{number}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, 2**20):
                file.write(os.urandom(min(2**20, size - start)))
    return folder


CHILD = """
import sys, time
from huggingface_hub import HfApi, snapshot_download
act, repo, folder, home = sys.argv[1:]
api = HfApi()
begun = time.perf_counter()
if act == "up":
    api.upload_folder(repo_id=repo, folder_path=folder)
else:
    snapshot_download(repo, local_dir=folder, cache_dir=home)
print(time.perf_counter() - begun)
"""


def transfer(server: Server, row: Row, act: str, repo: str, folder: Path, *, xet: bool) -> None:
    """A folder up or down by the client, in a process of its own: what importing it takes is not counted."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.running.url, "HF_TOKEN": server.running.token}
    with tempfile.TemporaryDirectory() as home:
        environment |= {"HF_HOME": home, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        command, before = [sys.executable, "-c", CHILD, act, repo, str(folder), home], server.cpu()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row.seconds.append(float(done.stdout.split()[-1]))
    row.cpu.append(server.cpu() - before)


def transfers(
    server: Server, name: str, count: int, size: int, end: str, repeat: int, aim: str = "", ways: str = "LFS Xet"
) -> Iterable[Row]:
    """Files up to a fresh repo and down again, each way in turn, and git and `cp` beside."""
    rows = {(way, act): Row(f"{name}, {way} {act}") for way in ways.split() for act in ("up", "down")}
    rows[ways.split()[0], "up"].aim = aim
    for number in range(repeat):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            sources = written(folder / "files", count, size, end)
            beside = beside_git(folder, sources)
            for way in ways.split():
                repo = f"hubkit/{name.replace(' ', '-').replace(',', '')}-{way}-{number}"
                server.api.create_repo(repo)
                transfer(server, rows[way, "up"], "up", repo, sources, xet=way == "Xet")
                transfer(server, rows[way, "down"], "down", repo, folder / "down", xet=way == "Xet")
                shutil.rmtree(folder / "down")
                server.api.delete_repo(repo)
                for act, git in (("up", "`git push`"), ("down", "`git clone`")):
                    for other in (git, "`cp`"):
                        rows[way, act].beside.setdefault(other, []).extend(beside[other])
    return rows.values()


def many_files(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """A commit of 5,000 files."""
    yield from transfers(server, "1,000 files of 1 kB", 1000, 1000, ".txt", options.repeat, ways="commit")
    numbers = iter(range(100))

    def at_the_api() -> None:
        repo, files = f"hubkit/five-{next(numbers)}", files_of(5000, 1000)
        server.api.create_repo(repo)
        began = time.perf_counter()
        server.api.create_commit(repo, files, commit_message="files")
        spent.append(time.perf_counter() - began)

    spent: list[float] = []
    row = server.measure(Row("a commit of 5,000 files (`create_commit`)", "5 s"), at_the_api, options.repeat)
    row.seconds = spent
    yield row


def many_large(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """Many small files in LFS."""
    return transfers(server, "500 files of 100 kB in LFS", 500, 100_000, ".safetensors", options.repeat)


def one_large(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """One large file."""
    size, name = options.mib * 2**20, f"one file of {options.mib:,} MiB"
    return transfers(server, name, 1, size, ".safetensors", options.repeat)


def upkeep(server: Server, options: argparse.Namespace) -> Iterable[Row]:
    """`gc` and `fsck` of all that the other parts left. The processor time is the command's."""
    for words in (("gc", "--dry-run"), ("gc",), ("fsck",)):
        row = Row(f"`hubkit hub {' '.join(words)}` of all that this page left")
        command = [Path(sys.executable).with_name("hubkit"), "hub", *words, "--data", server.running.data]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        row.seconds.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        row.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        yield row


PARTS = {
    "reading": reading, "commits": small_commits, "many-files": many_files, "many-large": many_large,
    "large": one_large, "upkeep": upkeep,
}  # fmt: skip


def shown(row: Row) -> str:
    """A row of the table: the median, the best, the processor time, and the ratios to what stands beside."""
    seconds, cpu = statistics.median(row.seconds), statistics.median(row.cpu)

    def figure(value: float) -> str:
        if row.rate:
            return f"{1 / value:.0f}/s"
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"

    ratios = ", ".join(f"{seconds / statistics.median(other):.1f} × {name}" for name, other in row.beside.items())
    processor = f"{cpu * 1000:.1f} ms" if cpu < 1 else f"{cpu:.2f} s"
    return f"| {row.name} | {row.aim} | {figure(seconds)} | {figure(min(row.seconds))} | {processor} | {ratios} |"


def main() -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bench-server.md")
    options = parser.parse_args()
    disable_progress_bars()
    lines, memory, load = [], [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-server-") as folder:
        server = Server(Path(folder))
        try:
            for part in options.only:
                server.highest = 0
                for row in PARTS[part](server, options):
                    lines.append(shown(row))
                    print(lines[-1], flush=True)
                memory.append(f"{part} {server.highest >> 20} MiB")
                print(memory[-1], flush=True)
        finally:
            server.close()
    options.out.write_text(page(lines, memory, options, load), encoding="utf-8")
    return 0


def page(lines: list[str], memory: list[str], options: argparse.Namespace, load: float) -> str:
    """The document."""
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    where = f"{os.cpu_count()} CPUs ({platform.machine()}, Python {platform.python_version()})"
    head = f"""# The embedded Hub under load

By `tests/benchmarks/server.py`, {now}, on {where}; client and server share them. The load of the machine was \
{load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end (one minute): above the number of CPUs, the seconds \
are also those of others. What the server itself costs is its processor time. Medians, and the best of all; \
transfers {options.repeat} times, each on a fresh repo, by the client in a process of its own, in turn with `git push` \
and `git clone` (git-lfs) of the same files to a bare repo on this disk, and `cp` with `sync`.

| what | aim | median | best | processor time | beside |
|---|---|---|---|---|---|
"""
    most = f"\nMost memory that the server held for itself (USS), by part: {', '.join(memory)}. The aim is 200 MiB.\n"
    return head + "\n".join(lines) + "\n" + most


if __name__ == "__main__":
    sys.exit(main())
