"""Confine a child that runs somebody else's code: what it may read, what it may write, and by which means.

It reads the system's programs and libraries and the interpreter, it writes the folders that are its own, and of the
user's other files it sees nothing. Networking stays. The means, best first (:data:`WAYS`):

``landlock``    Linux 5.13 and later: :mod:`~hubkit.core.processes.landlock`
``bubblewrap``  ``bwrap`` builds a file system of its own, where it is installed and may do so
``user``        another uid for each app, when this process is root

Elsewhere, on macOS for example, there is none, and whoever starts an app has to say so: :data:`UNCONFINED`.
``HUBKIT_CONFINEMENT`` names the one way to be tried, or ``none``: for tests.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubkit.core.processes import landlock

Way = Literal["landlock", "bubblewrap", "user"]
WAYS: tuple[Way, ...] = ("landlock", "bubblewrap", "user")
VARIABLE = "HUBKIT_CONFINEMENT"
UNCONFINED = "not confined: its code can read and change whatever the user who started it can, the Hub's token included"
_SYSTEM = """
/usr /bin /sbin /lib /lib32 /lib64 /libx32 /nix/store /opt
/sys/devices /sys/bus /sys/class /sys/fs/cgroup /sys/module /sys/dev
/etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/alternatives /etc/localtime /etc/timezone 
/etc/passwd /etc/group /etc/nsswitch.conf /etc/resolv.conf /etc/hosts /etc/host.conf /etc/gai.conf /etc/protocols
/etc/services /etc/mime.types /etc/fonts /etc/magic /etc/ssl/certs /etc/ssl/openssl.cnf /etc/ssl/cert.pem
/etc/ca-certificates /etc/ca-certificates.conf /etc/pki/tls/certs /etc/pki/tls/cert.pem /etc/pki/tls/openssl.cnf
/etc/pki/ca-trust/extracted /etc/crypto-policies /etc/pip.conf /etc/xdg/pip
/etc/OpenCL /etc/vulkan /etc/glvnd /etc/hostname /etc/networks /etc/locale.alias /etc/terminfo /etc/gitconfig
/etc/httpd/mime.types /etc/httpd/conf/mime.types /etc/apache/mime.types /etc/apache2/mime.types
"""
"""What programs need of the system. Of /etc only what holds no secrets: root's app could read the rest."""
_RELEASES = ("*release", "*version", "python3*")
"""What in /etc has a version in its name, or tells the distribution's."""
_PREFIX = ("bin", "lib", "lib32", "lib64", "libexec", "include", "share", "etc", "ssl", "pyvenv.cfg")
"""What is an interpreter's in its prefix. Other things may lie there, such as a project and its Hub."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_GPUS = ("nvidia*", "nvidia-caps/*", "kfd", "dri/*", "dxg")
_FIRST_USER, _USERS = 0x70000000, 2**24
_PASS, _OTHERS = stat.S_IXOTH, stat.S_IRWXO


@dataclass(frozen=True)
class Reach:
    """What a child may reach beyond the system. Folders in ``hidden`` are never part of what it may read there.

    ``required``: it is not started when nothing confines it.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    required: bool = False

    def order(self, way: Way | None) -> dict[str, Any]:
        """The confinement as plain JSON, for :class:`Confined` in the process that starts the child."""
        hidden = [path.resolve() for path in (*self.hidden, Path.home())]
        system = [path for name in _SYSTEM.split() for path in _without(Path(name), hidden)]
        system += [path for pattern in _RELEASES for path in Path("/etc").glob(pattern)]
        return {
            "way": way,
            "read": [str(path) for path in (*system, *_interpreter(hidden), *self.read)],
            "write": [str(path) for path in self.write],
            "opened": [str(path.resolve()) for path in self.hidden],
        }


def best_way(reach: Reach, ways: Sequence[Way] | None = None) -> Way | None:
    """The best of ``ways`` (by default of all, or what ``HUBKIT_CONFINEMENT`` names) that this system has; or None."""
    named = os.environ.get(VARIABLE)
    if ways is None:
        ways = WAYS if named is None else [way for way in WAYS if way == named]
    for way in ways:
        if way == "landlock" and landlock.abi() > 0:
            return way
        if way == "bubblewrap" and _bubblewrap_works():
            return way
        if way == "user" and _another_user_could(reach):
            return way
    return None


@functools.cache
def _bubblewrap_works() -> bool:
    """Whether bubblewrap is installed and allowed to do its work: many containers and some systems forbid it."""
    if sys.platform != "linux" or (program := shutil.which("bwrap")) is None:
        return False
    probe = [program, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _another_user_could(reach: Reach) -> bool:
    """Whether this is root, and another user could get to the interpreter and to the folders of the child."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    hidden = [path.resolve() for path in reach.hidden]
    for path in (Path(sys.executable).resolve(), Path(sysconfig.get_path("purelib")), *reach.read, *reach.write):
        for parent in path.resolve().parents:
            inside = any(parent.is_relative_to(folder) for folder in hidden)
            if not inside and parent.exists() and not parent.stat().st_mode & _PASS:
                return False
    return True


def _interpreter(hidden: Sequence[Path]) -> list[Path]:
    """The interpreter that runs this, its standard library and what is installed for it."""
    prefixes = {sys.prefix, sys.base_prefix} - {"/"}
    found = [Path(prefix) / name for prefix in prefixes for name in _PREFIX]
    found += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [Path(sys.executable).resolve()]
    return [part for path in dict.fromkeys(found) for part in _without(path, hidden)]


def _without(path: Path, hidden: Sequence[Path]) -> list[Path]:
    """``path``; where one of ``hidden`` lies below it, those of its entries that hold none. Only what exists."""
    if not path.exists():
        return []
    real = path.resolve()
    if not any(folder.is_relative_to(real) for folder in hidden):
        return [path]
    return [entry for entry in path.iterdir() if not any(folder.is_relative_to(entry.resolve()) for folder in hidden)]


# --- in the process that starts the child


class Confined:
    """How a child is started under an ``order``: its command, and the arguments for ``subprocess.Popen``."""

    def __init__(self, order: dict[str, Any], command: Sequence[str], folder: Path) -> None:
        """OSError when the system refuses: the command must not be run then."""
        self.way: Way | None = order["way"]
        self.command, self.arguments = list(command), dict[str, Any]()
        read, write = ([Path(path) for path in order[name]] for name in ("read", "write"))
        if self.way == "landlock":
            rules = landlock.Rules(
                read=[*read, Path("/proc")], write=write, devices=_devices(), unlisted=[Path("/dev/shm")]
            )
            self.arguments = {"preexec_fn": rules.apply}
        elif self.way == "bubblewrap":
            files = [_handle(program)] if (program := landlock.system_calls()) else []
            options = [word for file in files for word in ("--seccomp", str(file))]
            self.command = [*_bubblewrap(read, write, folder), *options, "--", *self.command]
            self.arguments = {"pass_fds": files}
        elif self.way == "user":
            user = _user_of(write, [Path(path) for path in order["opened"]])
            self.arguments = {"user": user, "group": user, "extra_groups": [], "preexec_fn": landlock.no_new_rights}


def _devices() -> list[Path]:
    return [Path(name) for name in _DEVICES] + _gpus()


def _gpus() -> list[Path]:
    return [path for pattern in _GPUS for path in Path("/dev").glob(pattern)]


def _bubblewrap(read: Iterable[Path], write: Iterable[Path], folder: Path) -> list[str]:
    """The command that builds the child's file system and then runs what follows it."""
    command = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    binds = [("--ro-bind", path) for path in read] + [("--dev-bind", path) for path in _gpus()]
    for kind, path in sorted(binds, key=lambda bind: len(bind[1].parts)):
        command += [f"{kind}-try", str(path), str(path)]
    for path in write:
        command += ["--bind", str(path), str(path)]
    return [*command, "--remount-ro", "/", "--chdir", str(folder)]


def _handle(content: bytes) -> int:
    """An open file that holds ``content``, for a program that is given its number."""
    handle = os.memfd_create("hubkit")
    os.write(handle, content)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _user_of(write: Sequence[Path], opened: Sequence[Path]) -> int:
    """The uid for a child that is given the folders ``write``, and the way to them within ``opened``."""
    user = _FIRST_USER + zlib.crc32(os.fsencode(write[0].parent)) % _USERS
    for folder in write:
        for parent in folder.parents:
            if any(parent.is_relative_to(place) for place in opened):
                mode = stat.S_IMODE(parent.stat().st_mode)
                parent.chmod(mode & ~_OTHERS | _PASS)
        for _, folders, files, handle in os.fwalk(folder):
            os.chown(handle, user, user)
            for name in (*folders, *files):
                # A name for another's file would give that file away.
                entry = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1:
                    os.chown(name, user, user, dir_fd=handle, follow_symlinks=False)
    return user
