"""An app that tries to get at what is not its own, and reports what it managed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

SPY = '''
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys, tempfile
from pathlib import Path

TARGETS = json.loads(%r)
got = {}

def attempt(name, function):
    """What a try brought; only what was refused is not reported."""
    try:
        got[name] = repr(function())[:80]
    except (OSError, subprocess.SubprocessError):
        pass

for path in TARGETS["files"] + TARGETS["closed"]:
    attempt(f"read {path}", lambda: open(path, "rb").read())
    attempt(f"show {path}", lambda: subprocess.run(["/bin/cat", path], capture_output=True, check=True))
for path in TARGETS["files"]:
    attempt(f"change {path}", lambda: open(path, "ab").write(b"spy"))
    attempt(f"cut {path}", lambda: os.truncate(path, 0))
    attempt(f"remove {path}", lambda: os.unlink(path))
    attempt(f"link {path}", lambda: os.link(path, "linked"))
    attempt(f"rename {path}", lambda: os.rename(path, "renamed"))
    def by_link():
        os.path.lexists("link") and os.unlink("link")
        os.symlink(path, "link")
        return open("link", "rb").read()
    attempt(f"read by link {path}", by_link)
for folder in TARGETS["folders"]:
    if TARGETS["lists"]:
        attempt(f"list {folder}", lambda: os.listdir(folder))
    def write():
        open(f"{folder}/spy", "w").close()
        os.unlink(f"{folder}/spy")
    def create():
        os.mkdir(f"{folder}/spied")
        os.rmdir(f"{folder}/spied")
    attempt(f"write in {folder}", write)
    attempt(f"create in {folder}", create)
for pid in TARGETS["processes"]:
    for name in ("environ", "mem", "maps", "fdinfo/0", "io"):
        attempt(f"{name} of {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("fd/0", "fd/1", "fd/3", "fd/5", "fd/7", "cwd", "root", "exe"):
        attempt(f"{name} of {pid}", lambda: os.readlink(f"/proc/{pid}/{name}"))
    attempt(f"limits of {pid}", lambda: resource.prlimit(pid, resource.RLIMIT_CORE))
    attempt(f"files of {pid}", lambda: os.listdir(f"/proc/{pid}/cwd/"))
    attempt(f"the root of {pid}", lambda: os.listdir(f"/proc/{pid}/root/"))
    if TARGETS["signals"]:
        attempt(f"signal {pid}", lambda: os.kill(pid, signal.SIGCONT))
        attempt(f"signal its group {pid}", lambda: os.killpg(pid, signal.SIGCONT))
    def trace():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(0x4206, pid, None, None):  # to seize it; to attach would stop it
            raise OSError(ctypes.get_errno(), "ptrace")
    attempt(f"trace {pid}", trace)
for address in TARGETS["sockets"]:
    def connect():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address if address[0] == "/" else chr(0) + address[1:])
    attempt(f"connect to {address}", connect)

own = {}
def allowed(name, function):
    try:
        function()
        own[name] = True
    except Exception as error:
        own[name] = f"{type(error).__name__}: {error}"

def program():
    subprocess.run([sys.executable, "-c", "print(1)"], check=True, capture_output=True)
def lock():
    import multiprocessing
    multiprocessing.Lock()
def names():
    socket.getaddrinfo("localhost", 80)
allowed("write its folder", lambda: open("own", "w").write("x"))
allowed("write its home", lambda: (Path.home() / "own").write_text("x"))
allowed("write a temporary file", lambda: tempfile.TemporaryFile().write(b"x"))
allowed("move between its folders", lambda: __import__("shutil").move("own", Path.home() / "moved"))
allowed("start a program", program)
allowed("a lock", lock)
allowed("resolve a name", names)
allowed("read its own process", lambda: open("/proc/self/status").read())
allowed("its own limits", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
allowed("sockets in pairs", socket.socketpair)
allowed("a random number", lambda: open("/dev/urandom", "rb").read(8))
strangers = [name for name in os.environ if name in TARGETS["variables"]]
with (Path.home() / "spy.txt").open("a") as file:
    print("SPY " + json.dumps({"got": got, "own": own}), file=file)
print("SPY " + json.dumps({"got": got, "own": own, "variables": strangers}), flush=True)
'''
"""``TARGETS`` as JSON takes the place of the one gap."""
OWN = 11
"""Things that every app may do."""


def spy(
    *,
    files: Sequence[Path] = (),
    closed: Sequence[Path] = (),
    folders: Sequence[Path] = (),
    processes: Sequence[int] = (),
    sockets: Sequence[str] = (),
    variables: Sequence[str] = (),
    signals: bool = True,
    lists: bool = True,
) -> str:
    """The code of an app that tries all of it, then prints a line ``SPY {...}``.

    It would destroy ``files``, and only read those that are ``closed``.
    """
    targets = {
        "files": [str(path) for path in files], "folders": [str(path) for path in folders],
        "processes": list(processes), "sockets": list(sockets), "variables": list(variables), "signals": signals,
        "lists": lists, "closed": [str(path) for path in closed],
    }  # fmt: skip
    return SPY % json.dumps(targets)


def report(lines: list[str]) -> dict[str, dict[str, object]] | None:
    """What the spy managed, from the lines that it wrote; None when it has not reported yet."""
    for line in lines:
        if line.startswith("SPY "):
            return dict(json.loads(line.removeprefix("SPY ")))
    return None
