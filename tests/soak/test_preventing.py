"""The recipes dpo-repair and dpo-sft-mixed, released: what docs/preventing.md says of their stop rates holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import hubkit_json
from soak_figures import record

pytestmark = [pytest.mark.soak, pytest.mark.train]


def test_one_repairs_what_the_other_prevents(home: Path) -> None:
    rates = {}
    for name in ("dpo-repair", "dpo-sft-mixed"):
        outcome = hubkit_json("release", name, home=home)
        rates |= {f"{name}/{line['variant']}": line["stop_rates"]["merged"] for line in outcome["variants"]}
    record("stop rates of repairing and preventing", ", ".join(f"{name} {rate:.0%}" for name, rate in rates.items()))
    assert set(rates) == {"dpo-repair/dpo-v0", "dpo-repair/main", "dpo-sft-mixed/main"}
    assert rates["dpo-repair/dpo-v0"] < 0.5, "what is repaired was broken"
    assert rates["dpo-repair/main"] >= 0.95 and rates["dpo-sft-mixed/main"] > rates["dpo-repair/dpo-v0"]
