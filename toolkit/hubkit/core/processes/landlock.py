"""Confine this process by the Linux kernel: Landlock for files and signals, seccomp for sockets, and no capabilities.

A few system calls and a filter of twenty instructions, against interfaces that the kernel keeps stable. The packages
that wrap them are not fit for a boundary: ``landlock`` has only had pre-releases since 2022 and knows neither signals
nor sockets, ``py-landlock`` had two releases within two days, ``sandlock`` is 13 MB of native code for Linux 6.12.

Landlock holds for root too, and with it the kernel refuses a confined process every look into a process outside
(``/proc/PID/environ``, ``mem``, ``fd``, ptrace). It does not cover connections to Unix sockets in the file system, by
which a session's systemd, Docker or an ssh-agent would act for the app: such sockets are refused as a whole.
Imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
# Rights on files, as linux/landlock.h has them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = (1 << 13) - 1
_SCOPES = 1 << 0 | 1 << 1
"""Abstract Unix sockets and signals."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
_UNLISTED = _READ_FILE | _WRITE_FILE | _TRUNCATE | 1 << 5 | 1 << 8
"""Files are created and removed, and are found by those who know their names."""

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _CAPBSET_DROP, _CAP_AMBIENT = 38, 22, 24, 47
_CAPABILITY_VERSION_3 = 0x20080522
# Of each machine: what the filter must see as its architecture, and the numbers of socket, truncate, capset, prlimit64,
# and add_key, request_key, keyctl. io_uring_setup has the same number everywhere.
_MACHINES = {
    "x86_64": (0xC000003E, 41, 76, 126, 302, (248, 249, 250)),
    "aarch64": (0xC00000B7, 198, 45, 91, 261, (217, 218, 219)),
}
_IO_URING_SETUP, _X32 = 425, 0x40000000
_AF_UNIX, _SEQPACKET = 1, 5
_NVIDIA = Path("/dev/nvidiactl")


def abi() -> int:
    """The version of Landlock that the kernel offers; 0 where there is none, or on a machine that is not known here."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


class Rules:
    """What a process may reach once it is confined. Prepared by the parent, applied by the child."""

    def __init__(
        self, *, read: Iterable[Path], write: Iterable[Path], devices: Iterable[Path], unlisted: Iterable[Path] = ()
    ) -> None:
        """OSError when the kernel refuses. Paths that do not exist are left out.

        ``read``: files and folders to read and execute; ``write``: folders to do everything in; ``devices``: to read,
        write and control; ``unlisted``: folders for files whose names one must know.
        """
        self._abi = abi()
        self._handled = _FIRST_ABI | (_REFER if self._abi >= 2 else 0)
        self._handled |= (_TRUNCATE if self._abi >= 3 else 0) | (_IOCTL_DEV if self._abi >= 5 else 0)
        scopes = _SCOPES if self._abi >= 6 else 0
        attributes = struct.pack("QQQ", self._handled, 0, scopes)
        size = 24 if self._abi >= 6 else 16 if self._abi >= 4 else 8
        self._ruleset = _checked(
            _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock_create_ruleset"
        )
        everything = self._handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
        for paths, rights in ((read, _READ), (write, everything), (devices, _DEVICE), (unlisted, _UNLISTED)):
            for path in paths:
                self._allow(path, rights)
        self._filter = system_calls(without_truncate=self._abi < 3)

    def _allow(self, path: Path, rights: int) -> None:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights & self._handled, handle)
            _checked(_syscall(_ADD_RULE, self._ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)), "landlock_add_rule")
        finally:
            os.close(handle)

    def apply(self) -> None:
        """Confine this thread and all that it starts, for good. OSError when any part of it fails."""
        drop_capabilities()
        no_new_rights()
        _checked(_syscall(_RESTRICT_SELF, self._ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")
        instructions = ctypes.create_string_buffer(self._filter)
        program = ctypes.create_string_buffer(
            struct.pack("HxxxxxxQ", len(self._filter) // 8, ctypes.addressof(instructions))
        )
        _checked(_prctl(_SET_SECCOMP, 2, ctypes.addressof(program)), "seccomp")
        os.close(self._ruleset)


def drop_capabilities() -> None:
    """Give up everything that root may do beyond the files that it owns, for good; nothing for other users."""
    _prctl(_CAP_AMBIENT, 4)
    for capability in range(64):
        if _prctl(_CAPBSET_DROP, capability) != 0:  # the last one is passed, or this user has none to give up
            break
    capset = _MACHINES[platform.machine()][3]
    _checked(_syscall(capset, struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)), "capset")


def system_calls(*, without_truncate: bool = False) -> bytes:
    """A seccomp program: refuse Unix sockets, the user's keys, limits for others, and the ways around it.

    Pairs of connected sockets stay, which asyncio and multiprocessing are built on. Empty on a machine that is not
    known here.
    """
    if platform.machine() not in _MACHINES:
        return b""
    architecture, socket, truncate, _, limits, keys = _MACHINES[platform.machine()]
    load, mask, equal, at_least, end = 0x20, 0x54, 0x15, 0x35, 0x06
    allowed, refused, unknown = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = [line(load, 4), line(equal, architecture, 1, 0), line(end, refused), line(load, 0)]
    for code, number, answer in (
        (at_least, _X32, refused),
        (equal, _IO_URING_SETUP, unknown),
        *((equal, number, refused) for number in (*keys, *([truncate] if without_truncate else []))),
    ):
        program += [line(code, number, 0, 1), line(end, answer)]
    program += [line(equal, limits, 0, 3), line(load, 16), line(equal, 0, 4, 0), line(end, refused)]
    program += [line(equal, socket, 0, 2), line(load, 16), line(equal, _AF_UNIX, 1, 0), line(end, allowed)]
    if _NVIDIA.exists():  # its driver opens one of this type, which services do not listen on
        program += [line(load, 24), line(mask, 0xF), line(equal, _SEQPACKET, 0, 1), line(end, allowed)]
    return b"".join([*program, line(end, refused)])


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def _prctl(*arguments: int) -> int:
    five = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    return int(ctypes.CDLL(None, use_errno=True).prctl(*five))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def no_new_rights() -> None:
    """Let no program that this process starts gain rights, as setuid ones do. OSError when the kernel refuses."""
    _checked(_prctl(_SET_NO_NEW_PRIVS, 1), "no_new_privs")
