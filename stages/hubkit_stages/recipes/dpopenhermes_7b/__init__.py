"""The release that hubkit was made for: DPO of OpenHermes-2.5-Mistral-7B, repaired by an SFT. Needs a large GPU."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).with_name("hubkit.yaml")
