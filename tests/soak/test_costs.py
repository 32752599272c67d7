"""What `hubkit plan` estimates of the tiny recipe on this machine, beside what its release then takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import hubkit, hubkit_json
from soak_figures import record

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FACTOR = 3
"""Between the estimate and the seconds of a training or of the whole release: the machine may be shared."""


def test_the_estimate_of_a_release_is_of_the_order_of_what_it_takes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = hubkit_json("plan", "tiny", home=home)
    here = before["costs"]["this_device"]
    estimated = {step["step"]: step["cost"][here]["seconds"] for step in before["steps"]}
    done = hubkit("release", "tiny", home=home)
    assert done.returncode == 0, done.stderr
    after = hubkit_json("plan", "tiny", home=home)
    taken = {step["step"]: step["seconds"] for step in after["steps"]}
    assert all(step["cost"][here]["seconds"] == 0 for step in after["steps"]), "what is reused costs nothing"
    pairs = {name: (estimated[name], taken[name]) for name in ("train[dpo]", "train[sft]")}
    pairs["all steps"] = (sum(estimated.values()), sum(taken.values()))
    figures = [f"{name} {first:.0f} s estimated, {second:.0f} s taken" for name, (first, second) in pairs.items()]
    record("costs of the tiny recipe", "; ".join(figures))
    for name, (first, second) in pairs.items():
        assert second / FACTOR < first < second * FACTOR, (name, first, second)
