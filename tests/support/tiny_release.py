"""One whole release, as a user runs it: killed in training, interrupted in the repair, killed in publishing, between
two branches and in deploying.

The release is made once, by the real command, in a fresh folder; the tests look at what it left from every side.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asked_once
import psutil
import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, until, workers_of

REPO = "hubkit/tiny-hermes-dpo"


@dataclass
class Released:
    """What the release left."""

    home: Path
    url: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    refs_after_staging: dict[str, str] = field(default_factory=dict)
    refs_between_branches: dict[str, str] = field(default_factory=dict)
    said: str = ""
    interrupted: int | None = None
    """The exit code of the command that was interrupted in the repair."""

    @property
    def run(self) -> Path:
        return self.home / "runs" / "tiny-hermes-dpo-1"

    def artifact(self, step: str, name: str) -> Any:
        return json.loads((self.run / "artifacts" / step / name).read_text(encoding="utf-8"))

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "journal.jsonl").read_text().splitlines()]

    def refs(self) -> dict[str, str]:
        from huggingface_hub import HfApi

        found = HfApi(endpoint=self.url, token=False).list_repo_refs(REPO)
        return {branch.name: branch.target_commit for branch in found.branches}


def has_checkpoint(folder: Path) -> bool:
    """Whether a whole checkpoint lies below ``folder``, where new ones are written and old ones removed meanwhile."""
    try:
        return any(folder.rglob("checkpoint-*/manifest.json"))
    except FileNotFoundError:  # one went away between two looks
        return False


def stop_while_training(home: Path, stage: str, how: signal.Signals) -> int:
    """End the command by ``how`` once the training of ``stage`` has a whole checkpoint; its workers must end with it.

    Returns the exit code.
    """
    asked_once.lend(home)
    command = subprocess.Popen(
        [HUBKIT, "release", "tiny"], env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children: list[psutil.Process] = []
    try:
        checkpoints = home / "runs" / "tiny-hermes-dpo-1" / "work" / f"train[{stage}]" / "scratch"
        until(lambda: command.poll() is not None or has_checkpoint(checkpoints), 400)
        assert command.poll() is None, "the release ended before it had a checkpoint"
        children = until(lambda: workers_of(command.pid), 10)
        command.send_signal(how)
        command.wait(60)
    finally:
        command.kill()
        command.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "the worker outlived its parent"
    return command.returncode


@pytest.fixture(scope="package")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    home = tmp_path_factory.mktemp("release") / "home"
    made = Released(home)
    try:
        stop_while_training(home, "dpo", signal.SIGKILL)
        made.interrupted = stop_while_training(home, "sft", signal.SIGINT)
        made.url = hubkit_json("hub", "status", home=home)["url"]
        done = hubkit("release", "tiny", home=home, HUBKIT_TEST_KILL_AT="staging-verified:publish[main]")
        made.said += done.stdout + done.stderr
        assert done.returncode == 1 and "signal 9" in done.stderr and "Run the same command again" in done.stderr
        made.refs_after_staging = made.refs()
        done = hubkit("release", "tiny", home=home, HUBKIT_TEST_KILL_AT="branch-moved[dpo-v0]:promote")
        made.said += done.stdout + done.stderr
        assert done.returncode == 1, done.stderr
        made.refs_between_branches = made.refs()
        done = hubkit("release", "tiny", home=home, HUBKIT_TEST_KILL_AT="space-committed:space")
        made.said += done.stdout + done.stderr
        assert done.returncode == 1, done.stderr
        made.outcome = hubkit_json("release", "tiny", home=home)
        yield made
    finally:
        if home.exists():
            hubkit("hub", "stop", home=home)
            if keep := os.environ.get("HUBKIT_TEST_KEEP"):
                shutil.copytree(home, keep, dirs_exist_ok=True)
