"""Fuzzing: a target is fed with mutated inputs in a child process, so that even what ends a process is found.

The child has a limit of address space, and a timer of processor time for each input; the input that is being tried is
in a file that both map, so whatever the end (SIGSEGV, a hang, out of memory), the input is known. What is found is
kept in the folder of the run. With atheris (libFuzzer's coverage guidance for Python) where it has a wheel, else with
the same mutations without guidance. Run as a script it is the child.

``python tests/support/fuzzing.py replay TARGET FILE`` tries one input, and shows what came of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
"""Where the child finds ``fuzz_targets``."""
CORPUS = ROOT / "tests" / "soak" / "corpus"
"""A folder for each target: inputs that once were too much for it, and are tried again by each run of the tests."""
LIMIT_SECONDS = 2.0
"""Processor time that one input may take."""
ADDRESS_SPACE = 3 * 2**30
_STARTING = 120
"""Seconds of the clock that a child may take to import what it tests, on a busy machine."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed. ``prepare`` imports it and returns a function that raises when an input was too much for it.

    ``prepare`` gets an empty folder of its own. ``words`` are what inputs of this kind are made of.
    """

    name: str
    prepare: Callable[[Path], Callable[[bytes], None]]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    max_size: int = 100_000


@dataclass
class Found:
    """What a run found. ``problems``: the path of each input that failed, and how."""

    target: str
    engine: str
    tried: int = 0
    slowest: float = 0.0
    slowest_size: int = 0
    peak_bytes: int = 0
    problems: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def figure(self) -> str:
        """For the table of long runs."""
        return (
            f"{self.tried:,} inputs ({self.engine}), slowest {self.slowest:.2f} s of processor time "
            f"({self.slowest_size:,} bytes), peak {self.peak_bytes / 2**20:,.0f} MiB, {len(self.problems)} failed"
        )


# --- the parent


def fuzz(target: str, seconds: float, folder: Path, *, seed: int = 0, engine: str | None = None) -> Found:
    """Fuzz for ``seconds`` of the clock, in as many children as it takes."""
    engine = engine or ("atheris" if find_spec("atheris") else "random")
    found = Found(target, engine)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and len(found.problems) < 50:
        work = Path(tempfile.mkdtemp(dir=folder))
        code = _child("fuzz", target, str(work), str(left), str(seed), engine, timeout=left + _STARTING)
        seed += 1
        _collect(found, work)
        if code in {0, None}:
            break
        last = _current(work)
        if last is None:
            log = (work / "log").read_text(encoding="utf-8", errors="replace")
            raise AssertionError(f"{target}: the child ended by itself ({code}):\n{log[-4000:]}")
        kept = keep(last, folder, "ended")
        again = replay(target, kept)  # what is slow under instrumentation may be fast enough without
        if again:
            found.problems.append((kept, again))
        else:
            kept.rename(kept.with_name(f"not-again-{kept.name}"))
    return found


def replay(target: str, path: Path) -> str | None:
    """Try one input in a child of its own: None, or how it failed."""
    with tempfile.TemporaryDirectory() as work:
        code = _child("replay", target, str(path), work, timeout=_STARTING)
        log = (Path(work) / "log").read_text(encoding="utf-8", errors="replace")
    if code == 0:
        return None
    if code is None:
        return f"it did not end within {_STARTING} s"
    if code == -signal.SIGPROF:
        return f"it took more than {LIMIT_SECONDS:g} s of processor time"
    return f"the process was ended by signal {-code}" if code < 0 else log[-3000:]


def keep(content: bytes, folder: Path, kind: str) -> Path:
    """``content`` as a file of ``folder``, named by its digest."""
    path = folder / f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}"
    path.write_bytes(content)
    return path


def _child(*args: str, timeout: float) -> int | None:
    """Run this file; its exit status, None when it had to be killed. Its output is in ``log`` of its work folder."""
    work = Path(args[2] if args[0] == "fuzz" else args[3])
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    paths = [ROOT / "toolkit", ROOT / "stages", SUPPORT, Path(__file__).parent]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment |= {"HF_HOME": str(work / "hf"), "HUBKIT_HOME": str(work / "home"), "TMPDIR": str(work)}
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", __file__, *args], env=environment, cwd=work, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _collect(found: Found, work: Path) -> None:
    """Add the figures and the failures of a child."""
    try:
        figures = json.loads((work / "figures.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    found.tried += figures["tried"]
    found.peak_bytes = max(found.peak_bytes, figures["peak_bytes"])
    if figures["slowest"] > found.slowest:
        found.slowest, found.slowest_size = figures["slowest"], figures["slowest_size"]
    for path in sorted(work.glob("failed-*.txt")):
        found.problems.append((path.with_suffix(""), path.read_text(encoding="utf-8")[-3000:]))


def _current(work: Path) -> bytes | None:
    """The input that a child was trying when it ended; None when it was between two."""
    content = (work / "current").read_bytes() if (work / "current").exists() else b""
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length - 1] if length else None


# --- the child


class Tried:
    """Counts and watches what is tried, one input after the other."""

    def __init__(self, run: Callable[[bytes], None], work: Path, max_size: int) -> None:
        self.run, self.work = run, work
        self.tried, self.slowest, self.slowest_size = 0, 0.0, 0
        self._signatures: set[str] = set()
        self._written = 0.0
        path = work / "current"
        path.write_bytes(bytes(max_size + 16))
        with path.open("r+b") as file:
            self._current = mmap.mmap(file.fileno(), 0)

    def __call__(self, content: bytes) -> None:
        """Try one input: the system ends this process when it takes too long."""
        room = len(self._current) - 8
        content = content[: room - 1]
        self._current[8 : 8 + len(content)] = content
        self._current[:8] = (len(content) + 1).to_bytes(8, "little")
        before = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
        try:
            self.run(content)
        except Exception as error:
            self._failed(content, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._current[:8] = bytes(8)
        took = time.process_time() - before
        self.tried += 1
        if took > self.slowest:
            self.slowest, self.slowest_size = took, len(content)
            if took > LIMIT_SECONDS / 4:
                keep(content, self.work, "slow")
        if time.monotonic() - self._written > 0.5:
            self.write()

    def write(self) -> None:
        """Write the figures so far: the process may end at any time."""
        figures = {
            "tried": self.tried,
            "slowest": self.slowest,
            "slowest_size": self.slowest_size,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
        }
        (self.work / "figures.tmp").write_text(json.dumps(figures), encoding="utf-8")
        (self.work / "figures.tmp").rename(self.work / "figures.json")
        self._written = time.monotonic()

    def _failed(self, content: bytes, error: BaseException) -> None:
        """Keep the input, once for each place in the code."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "hubkit" in frame.filename] or frames[-1:]
        signature = f"{type(error).__name__} {ours[-1].filename}:{ours[-1].lineno}"
        if signature not in self._signatures:
            self._signatures.add(signature)
            path = keep(content, self.work, "failed")
            path.with_suffix(".txt").write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8", errors="replace"
            )
            self.write()


class Mutations:
    """Changes inputs as people who mean harm do: words of the format, long repetitions, deep nests, odd characters."""

    ODD = (
        b"\x00", b"\xff", b"\xed\xa0\x80", "\u2028".encode(), "\ufeff".encode(),
        b"\\ud800", b"\r", b"\x85", b"1e999", b"-0", b"9" * 400, b"NaN",
        b"null", b"true", b"\"\"", b"[]", b"{}", b"\x1b[2J", b"%00", b"../", b"\n\n",
    )  # fmt: skip

    def __init__(self, words: tuple[bytes, ...], seeds: list[bytes]) -> None:
        self.words, self.seeds = words + self.ODD, seeds

    def __call__(self, content: bytes, max_size: int, rng: random.Random) -> bytes:
        """``content`` with one to four changes, at most ``max_size`` bytes."""
        for _ in range(rng.choice((1, 1, 2, 4))):
            content = self._change(content, max_size, rng)[:max_size]
        return content

    def _change(self, content: bytes, max_size: int, rng: random.Random) -> bytes:
        start = rng.randint(0, len(content))
        end = min(len(content), start + int(rng.paretovariate(0.7)))
        word = rng.choice(self.words)
        kind = rng.random()
        if kind < 0.25:
            return content[:start] + word + content[start if rng.random() < 0.5 else end :]
        if kind < 0.40:
            other = rng.choice(self.seeds)
            at = rng.randint(0, len(other))
            return content[:start] + other[at : at + rng.randint(1, 400)] + content[end:]
        if kind < 0.55:
            return content[:start] + content[end:]
        if kind < 0.65:
            return content[:start] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 1, 2, 8)))) + content[end:]
        if kind < 0.75:  # long or deep
            piece = word if rng.random() < 0.7 else content[start:end] or word
            most = max(1, (max_size - len(content)) // len(piece))
            times = min(most, int(rng.paretovariate(0.35)) if rng.random() < 0.95 else most)
            return content[:start] + piece * times + content[start:]
        if kind < 0.90:
            lines = content.split(b"\n")
            one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[two] = lines[two], lines[one] if rng.random() < 0.5 else lines[two]
            return b"\n".join(lines)
        numbers = list(re.finditer(rb"\d+", content))
        if not numbers:
            return content + word
        number = rng.choice(numbers)
        value = rng.choice(
            (b"0", b"-1", b"1e400", b"9" * rng.choice((5, 19, 40, 5000)), b"18446744073709551616", b"0.5")
        )
        return content[: number.start()] + value + content[number.end() :]


def _fuzz(name: str, work: Path, seconds: float, seed: int, engine: str) -> None:
    from fuzz_targets import TARGETS

    target = TARGETS[name]
    own = work / "own"
    own.mkdir()
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["hubkit", "yaml", "ruamel", "jinja2", "markdown_it"]):
            run = target.prepare(own)
    else:
        run = target.prepare(own)
    seeds = [seed_ for seed_ in target.seeds() if len(seed_) <= target.max_size]
    mutations = Mutations(target.words, seeds)
    tried = Tried(run, work, target.max_size)
    for content in seeds:
        tried(content)
    if engine == "random":
        _at_random(tried, mutations, seeds, seconds, seed, target.max_size)
        tried.write()
        return
    inputs = work / "inputs"
    inputs.mkdir()
    for content in seeds:
        keep(content, inputs, "seed")

    def mutated(content: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(content, max_size))
        return mutations(content, max_size, rng)

    flags = [f"-max_total_time={max(1, int(seconds))}", f"-max_len={target.max_size}", f"-seed={seed + 1}"]
    flags += ["-timeout=600", "-rss_limit_mb=0", "-handle_segv=0", "-handle_bus=0", "-handle_abrt=0", "-len_control=0"]
    flags += ["-reload=0", "-verbosity=0", "-print_final_stats=0", "-shrink=1"]
    atheris.Setup([sys.argv[0], *flags, str(inputs)], tried, custom_mutator=mutated)
    atheris.Fuzz()


def _at_random(
    tried: Tried, mutations: Mutations, seeds: list[bytes], seconds: float, seed: int, max_size: int
) -> None:
    """Mutate seeds, and what came of mutating them, without looking at coverage."""
    rng, pool = random.Random(seed), list(seeds)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        content = mutations(rng.choice(pool), max_size, rng)
        tried(content)
        if len(content) < 4096 and rng.random() < 0.1:
            pool[rng.randrange(len(seeds), len(pool) + 1) :] = [content] if len(pool) < 500 else pool[-200:]


def _replay(name: str, path: Path, work: Path) -> None:
    from fuzz_targets import TARGETS

    own = work / "own"
    own.mkdir()
    run = TARGETS[name].prepare(own)
    content = path.read_bytes()
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    run(content)
    signal.setitimer(signal.ITIMER_PROF, 0)


def main(what: str, *args: str) -> None:
    """The child."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if what == "replay":
        name, path, work = args if len(args) == 3 else (*args, tempfile.mkdtemp())
        _replay(name, Path(path), Path(work))
    else:
        name, work, seconds, seed, engine = args
        _fuzz(name, Path(work), float(seconds), int(seed), engine)


if __name__ == "__main__":
    main(*sys.argv[1:])
