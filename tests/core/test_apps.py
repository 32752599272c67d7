"""Apps as children: what they are given, what is seen of them, and that none outlives its starter."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import until

from hubkit.core.processes.app import App, end_leftover, environment
from hubkit.core.processes.logs import log_tail, older
from hubkit.core.processes.ports import free_port, is_free

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no ::1")
SERVER = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS)
        self.end_headers()
port = int(os.environ["GRADIO_SERVER_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
CHILDREN = """
import subprocess, sys
sleep = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
print(subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid)
"""


class Starter:
    """Starts apps of one folder, and ends them all at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.apps = folder, folder / "run.log", list[App]()

    def __call__(self, code: str, hide: tuple[str, ...] = (), **more: str) -> App:
        (self.folder / "app.py").write_text(code, encoding="utf-8")
        port = free_port()
        variables = environment(self.folder / "home", port, more)
        self.apps.append(App.start(self.folder, "app.py", port=port, environment=variables, log=self.log, hide=hide))
        return self.apps[-1]

    def said(self) -> list[str]:
        return log_tail(self.log)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for app in starter.apps:
        app.stop(0.1)


def gone(*pids: int) -> bool:
    """Whether none of the processes lives."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


def test_the_environment_is_allow_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "PIP_INDEX_URL", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "of the user")
    monkeypatch.setenv("TZ", "UTC")
    found = environment(tmp_path, 7, {"A": "1", "HOME": "/root", "PATH": "/evil", "GRADIO_SERVER_PORT": "80"})
    assert "of the user" not in found.values()
    assert (found["HOME"], found["PATH"], found["GRADIO_SERVER_PORT"]) == (str(tmp_path), os.environ["PATH"], "7")
    assert (found["A"], found["TZ"], found["GRADIO_SERVER_NAME"]) == ("1", "UTC", "127.0.0.1")


def test_an_app_gets_its_environment_and_nothing_else(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of the user")
    app = start("import json, os; print(json.dumps(dict(os.environ)))", SECRET="given")
    until(lambda: app.code() is not None, 20)
    found = json.loads(start.said()[0])
    assert found["SECRET"] == "given" and found["HOME"] == str(start.folder / "home")
    assert "of the user" not in found.values()
    assert Path(found["TMPDIR"]).is_dir()


def test_it_answers_once_it_listens(start: Starter) -> None:
    app = start(SERVER.replace("STATUS", "404"))
    until(app.answers, 20)
    assert app.url == f"http://localhost:{app.port}" and app.code() is None
    app.stop()
    assert not app.answers() and app.code() == -signal.SIGTERM


def test_a_server_error_is_no_answer(start: Starter) -> None:
    app = start(SERVER.replace("STATUS", "503"))
    until(lambda: start.said() or app.answers(), 20)  # its log tells of the first request
    assert any("503" in line for line in start.said()) and not app.answers()


def test_who_listens_and_says_nothing_does_not_hold_the_caller(start: Starter) -> None:
    app = start("import time; time.sleep(60)")
    with socket.create_server(("127.0.0.1", app.port)):
        began = time.monotonic()
        assert not app.answers()
        assert time.monotonic() - began < 30, "its port says nothing for a minute"


def test_who_dribbles_does_not_hold_the_caller_either(start: Starter) -> None:
    app = start(
        "import os, socket, time\n"
        "sock = socket.create_server(('127.0.0.1', int(os.environ['GRADIO_SERVER_PORT'])))\n"
        "while True:\n"
        "    connection, _ = sock.accept()\n"
        "    try:\n"
        "        while not time.sleep(0.002): connection.sendall(b'H')\n"
        "    except OSError: pass\n"
    )
    until(lambda: not is_free(app.port), 20)
    began = time.monotonic()
    assert not app.answers() and time.monotonic() - began < 30, "it dribbles without end"


@needs_ipv6
def test_nobody_else_is_found_under_localhost(start: Starter) -> None:
    app = start(SERVER.replace("STATUS", "200"))
    until(app.answers, 20)
    with socket.create_server(("::1", app.port), family=socket.AF_INET6):
        assert not is_free(app.port) and not app.guard()
    assert app.guard()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("::1", app.port), family=socket.AF_INET6)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", app.port))
    app.stop()
    with socket.create_server(("::1", app.port), family=socket.AF_INET6):
        assert not is_free(app.port)
    assert is_free(app.port)


@needs_ipv6
def test_an_app_may_listen_everywhere_itself(start: Starter) -> None:
    everywhere = "class Both(http.server.ThreadingHTTPServer): address_family = __import__('socket').AF_INET6\n"
    code = SERVER.replace("STATUS", "200").replace("http.server.ThreadingHTTPServer(('127.0.0.1'", "Both(('::'")
    app = start(code.replace("class", f"{everywhere}class", 1))
    until(app.answers, 20)
    assert app.guard()


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(3)", 3), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", -9), ("1 / 0", 1)],
)
def test_its_end_is_told(start: Starter, code: str, expected: int) -> None:
    app = start(code)
    until(lambda: app.code() is not None, 20)
    assert app.code() == expected
    assert expected != 1 or start.said()[-1] == "ZeroDivisionError: division by zero"


def test_the_log_has_times_and_lines_and_no_secrets(start: Starter) -> None:
    app = start("print('one\\rtwo'); print('token hf_secret.'); print('x' * 40000)", hide=("hf_secret", "o"))
    until(lambda: app.code() is not None, 20)
    first, second, third, *long = [json.loads(line) for line in start.log.read_text().splitlines()]
    assert [first["data"], second["data"], third["data"]] == ["one\n", "two\n", "token ***.\n"]
    assert first["timestamp"].endswith("Z") and first["timestamp"] <= long[-1]["timestamp"]
    assert sum(len(line["data"]) - 1 for line in long) == 40000


def test_the_log_is_bounded(start: Starter) -> None:
    app = start("for n in range(60000): print(n, 'x' * 80)")
    until(lambda: app.code() is not None, 60)
    assert sum(path.stat().st_size for path in (start.log, older(start.log))) < 4.2 * 2**20
    numbers = [int(line.split()[0]) for line in log_tail(start.log, 10_000)]
    assert numbers == list(range(50_000, 60_000))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child that leaves its group cannot be followed")
def test_children_end_with_it_whatever_they_do(start: Starter) -> None:
    stopped = start(CHILDREN + "import time; time.sleep(600)")
    until(start.said, 20)
    pids = [int(pid) for pid in start.said()[0].split()]
    assert not gone(pids[0]) and not gone(pids[1])
    stopped.stop(0.2)
    assert gone(*pids)
    start.log.unlink()
    ended = start(CHILDREN)
    until(lambda: ended.code() is not None, 20)
    assert gone(*(int(pid) for pid in start.said()[0].split()))


def test_an_app_that_will_not_end_is_killed(start: Starter) -> None:
    app = start("import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)")
    until(start.said, 20)
    app.stop(0.2)
    assert app.code() == -signal.SIGKILL


STARTER = """
import sys, time
from pathlib import Path
from hubkit.core.processes.app import App, environment
folder = Path(sys.argv[1])
app = App.start(folder, "app.py", port=1, environment=environment(folder / "home", 1, {}), log=folder / "run.log")
print(app.pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_starter_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CHILDREN + "import time; time.sleep(600)", encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        launcher = int(starter.stdout.readline())
        until(lambda: log_tail(tmp_path / "run.log"), 20)
        children = psutil.Process(launcher).children(recursive=True)
        assert len(children) == 3
        starter.kill()
    until(lambda: gone(launcher, *(child.pid for child in children)), 10)


def test_nothing_outlives_a_launcher_that_is_killed(start: Starter) -> None:
    app = start("import time; print('up', flush=True); time.sleep(600)")
    until(start.said, 20)
    [child] = psutil.Process(app.pid).children()
    os.kill(app.pid, signal.SIGKILL)
    until(lambda: app.code() is not None, 10)
    assert gone(child.pid)


def test_a_leftover_is_known_by_its_start(start: Starter) -> None:
    app = start("import time; time.sleep(600)")
    end_leftover(app.pid, app.created - 100)
    assert app.code() is None
    end_leftover(app.pid, app.created)
    assert app.code() == -signal.SIGKILL
