"""Everything that reads what strangers wrote, fuzzed: no crash, no 2 s of processor time, no memory without bound.

`make soak` gives each target ``HUBKIT_FUZZ_SECONDS`` (600), `make test` three seconds so that targets do not rot. An
input that once was too much is kept in ``corpus/TARGET`` and tried again by both.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from fuzz_samples import kept
from fuzz_targets import TARGETS
from fuzzing import ADDRESS_SPACE, CORPUS, LIMIT_SECONDS, Target, fuzz, replay
from soak_figures import record

SECONDS = float(os.environ.get("HUBKIT_FUZZ_SECONDS", "600"))


def told(problems: list[tuple[Path, str]]) -> str:
    """The failures, each with the input that shows it again."""
    return "\n\n".join(f"{path} ({path.stat().st_size:,} bytes): {how}" for path, how in problems)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_seconds_of_each_target(name: str, tmp_path: Path) -> None:
    """Without guidance, which takes the longest to begin; the inputs are the same in each run."""
    found = fuzz(name, 3.0, tmp_path, engine="random")
    assert not found.problems, told(found.problems)
    assert found.tried >= len(TARGETS[name].seeds()), "even the seeds took longer"


@pytest.mark.soak
@pytest.mark.timeout(3600 + 2 * int(SECONDS))
@pytest.mark.parametrize("name", TARGETS)
def test_each_target(name: str, tmp_path: Path) -> None:
    found = fuzz(name, SECONDS, tmp_path)
    record(f"fuzzing: {name}", f"{found.figure} in {SECONDS:.0f} s")
    assert not found.problems, told(found.problems)
    assert found.slowest < LIMIT_SECONDS and found.peak_bytes < ADDRESS_SPACE


def test_each_kept_input_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 500_000, "the kept inputs are to stay small"


# --- the harness itself finds what it is there for

HARM: dict[str, tuple[str, str]] = {
    "an exception": ("raise ValueError('harm')", "harm"),
    "a hang": ("while True: pass", "processor time"),
    "a hang that holds the interpreter": ("import re; re.match('(a+)+b', 'a' * 60)", "processor time"),
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", f"signal {int(signal.SIGSEGV)}"),
    "memory": ("bytearray(8 * 2**30)", "MemoryError"),
}


@pytest.mark.parametrize("kind", HARM)
def test_the_harness_finds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, words = HARM[kind]
    (tmp_path / "fuzz_targets.py").write_text(
        "from fuzzing import Target\n"
        "def prepare(work):\n"
        "    def run(content):\n"
        "        if content.startswith(b'harm'):\n"
        f"            {code}\n"
        "    return run\n"
        "TARGETS = {'t': Target('t', prepare, lambda: [b'good', b'harm and more'], (b'x',))}\n"
    )
    monkeypatch.setattr(fuzzing, "SUPPORT", tmp_path)
    found = fuzz("t", 0.5, tmp_path, engine="random")
    path, how = found.problems[0]
    assert path.read_bytes().startswith(b"harm") and words in how
    again: Any = replay("t", path)
    assert words in again


def test_the_words_of_a_target_are_used() -> None:
    import random

    target: Target = TARGETS["recipe"]
    mutations, rng = fuzzing.Mutations(target.words, target.seeds()), random.Random(1)
    made = [mutations(b"base: x\n", target.max_size, rng) for _ in range(3000)]
    assert all(len(item) <= target.max_size for item in made)
    assert all(any(word in item for item in made) for word in target.words)
    assert max(map(len, made)) > 50_000, "long inputs are among them"


def test_kept_inputs_are_read() -> None:
    assert all(isinstance(item, bytes) for name in TARGETS for item in kept(name))
