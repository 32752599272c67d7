"""How much memory a process held at most, and how much is free."""

from __future__ import annotations

import sys


def peak_memory(children: bool = False) -> int:
    """The most bytes that this process (or the largest of its ended ``children``) held in memory at once."""
    import resource  # not on Windows, where nobody asks

    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return in_bytes(resource.getrusage(who).ru_maxrss, sys.platform)


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def in_bytes(ru_maxrss: int, platform: str) -> int:
    """``ru_maxrss`` of getrusage(2) in bytes: macOS counts bytes, Linux and the BSDs count KiB."""
    return ru_maxrss if platform == "darwin" else ru_maxrss * 1024
