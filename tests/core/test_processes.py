"""Children that run one job within limits, and children that take orders: how they end, and what they are given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import until

from hubkit.core.errors import HubkitError
from hubkit.core.processes.parent import (
    JobFailed,
    JsonChild,
    allowed_environment,
    ask_module,
    kill_session,
    run_job,
)

SCRIPT = """
import os, time
def answer(job):
    if job == "memory":
        return len(bytearray(2**30))
    if job == "time":
        while True:
            pass
    if job == "sleep":
        time.sleep(600)
    if job == "error":
        raise ValueError("no such job")
    return {"job": job, "environment": sorted(os.environ), "session": os.getsid(0) == os.getpid()}
"""
MODULE = """
import os, time
from hubkit.core.processes.child import answer_question
def answer(question):
    print("this is no answer")
    os.system("echo nor is this")
    if question == "sleep":
        time.sleep(600)
    if question == "error":
        raise ValueError("no such question")
    return [question, os.environ["GIVEN"]]
answer_question(answer)
"""
ECHO = """
import json, subprocess, sys, time
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "start":
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        pids = [subprocess.Popen(sleep, start_new_session=apart).pid for apart in (False, True)]
        print(json.dumps({"pids": pids}), flush=True)
    elif order["do"] == "echo":
        print(json.dumps(order), flush=True)
    else:
        sys.exit(3)
if "deaf" in sys.argv:
    time.sleep(600)
"""


def _gone(*pids: int) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path / "script.py"


def _run(script: Path, job: str, *, timeout: float = 30, cpu_seconds: int = 10) -> object:
    return run_job(script, job, memory=2**29, cpu_seconds=cpu_seconds, timeout=timeout)


def test_a_module_answers_whatever_else_it_prints_and_how_it_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(MODULE, encoding="utf-8")
    given = {"GIVEN": "x", "PYTHONPATH": str(tmp_path)}
    assert ask_module("asked", "\u00fc", timeout=60, environment=given) == ["\u00fc", "x"]
    with pytest.raises(JobFailed, match="status 1") as failed:
        ask_module("asked", "error", timeout=60, environment=given)
    assert "no such question" in failed.value.errors
    with pytest.raises(JobFailed, match="time limit"):
        ask_module("asked", "sleep", timeout=2, environment=given)


def test_a_job_is_answered_by_a_child_with_an_empty_environment(script: Path) -> None:
    answer = _run(script, "ü")
    assert isinstance(answer, dict) and answer["job"] == "ü" and answer["session"]
    assert not {"HOME", "HF_TOKEN", "PATH"} & set(answer["environment"])


@pytest.mark.parametrize(
    ("job", "words"), [("memory", "MemoryError"), ("error", "ValueError: no such job"), ("time", ""), ("sleep", "")]
)
def test_limits_end_a_job(script: Path, job: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(JobFailed) as failed:
        _run(script, job, timeout=3 if job == "sleep" else 30, cpu_seconds=1)
    assert time.monotonic() - began < 30 and words in failed.value.errors
    expected = {"memory": 1, "error": 1, "time": -signal.SIGKILL, "sleep": None}[job]
    assert failed.value.code in {expected, -signal.SIGXCPU if job == "time" else expected}


PARENT = """
import sys
from pathlib import Path
from hubkit.core.processes.parent import run_job
run_job(Path(sys.argv[1]), "sleep", memory=2**29, cpu_seconds=10, timeout=600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_job_dies_with_its_parent(script: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(script)]) as parent:
        until(lambda: bool(psutil.Process(parent.pid).children()), 20)
        [child] = psutil.Process(parent.pid).children()
        until(lambda: str(script) in child.cmdline(), 20)
        time_before = child.create_time()
        parent.kill()
    until(lambda: _gone(child.pid), 20)
    assert time_before > 0


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[JsonChild]:
    child = JsonChild.start([sys.executable, "-c", ECHO, "deaf"], environment=allowed_environment(), folder=tmp_path)
    yield child
    child.end()


def test_orders_and_answers(echo: JsonChild) -> None:
    for number in range(3):
        echo.send({"do": "echo", "number": number})
        assert echo.receive(20) == {"do": "echo", "number": number}
    assert echo.receive(0.05) is None, "it has nothing to answer"
    echo.send({"do": "stop"})
    assert echo.receive(20) is None
    echo.send({"do": "echo"})
    assert echo.receive() is None and echo.end() == 3


@pytest.mark.parametrize("killed", [False, True])
def test_the_end_of_a_child_is_that_of_all_it_started(echo: JsonChild, killed: bool) -> None:
    echo.send({"do": "start"})
    answer = echo.receive(20)
    assert answer is not None
    beside, apart = answer["pids"]
    if killed:
        os.kill(echo.pid, signal.SIGKILL)
        until(lambda: psutil.Process(echo.pid).status() == psutil.STATUS_ZOMBIE, 20)
    assert echo.end(grace=0.2) == -signal.SIGKILL
    until(lambda: _gone(beside), 20)
    if killed:  # nobody knew any more whose child it was
        kill_session(apart)
    until(lambda: _gone(apart), 20)


def test_a_child_that_ends_by_itself_has_its_own_status(tmp_path: Path) -> None:
    child = JsonChild.start([sys.executable, "-c", ECHO], environment=allowed_environment())
    assert child.end(grace=20) == 0
    with pytest.raises(HubkitError, match="cannot be started"):
        JsonChild.start([str(tmp_path / "nothing")], environment={})


def test_only_named_variables_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "HF_TOKEN" not in allowed_environment() and "PATH" in allowed_environment()
    assert allowed_environment(["CUDA_VISIBLE_DEVICES", "NOT_SET"])["CUDA_VISIBLE_DEVICES"] == "0"
