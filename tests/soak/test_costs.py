"""What `hubkit plan` estimates of the tiny recipe on this machine, beside the processor time of its release."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from commands import hubkit, hubkit_json
from soak_figures import record

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FACTOR = 3


def test_the_estimate_of_a_release_is_of_the_order_of_what_it_takes(home: Path) -> None:
    """By processor time, as the machine may be shared: the tiny model is run by one thread."""
    before = hubkit_json("plan", "tiny", home=home)["costs"]
    estimated = before["seconds"][before["this_device"]]
    began = _processor_seconds()
    done = hubkit("release", "tiny", home=home)
    taken = _processor_seconds() - began
    assert done.returncode == 0, done.stderr
    after = hubkit_json("plan", "tiny", home=home)["costs"]
    assert after["seconds"][after["this_device"]] == 0, "what is reused costs nothing"
    record("costs of the tiny recipe", f"{estimated:.0f} s estimated, {taken:.0f} s of processor time taken")
    assert taken / FACTOR < estimated < taken * FACTOR


def _processor_seconds() -> float:
    """Of all child processes that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
