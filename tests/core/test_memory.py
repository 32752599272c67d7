"""The peak memory of a process, in bytes on every system."""

from __future__ import annotations

import resource
import sys

import pytest

from hubkit.core.memory import in_bytes, peak_memory


@pytest.mark.parametrize(("platform", "factor"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
def test_macos_counts_bytes_and_the_others_kib(platform: str, factor: int) -> None:
    assert in_bytes(300_000_000, platform) == 300_000_000 * factor


def test_the_peak_of_this_process_is_no_less_than_what_it_holds() -> None:
    block = bytearray(50_000_000)
    assert len(block) < peak_memory() < 2**40
    assert peak_memory() == in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)
