"""The release that hubkit was written for: DPO of OpenHermes-2.5-Mistral-7B, then a short SFT. Needs a large GPU."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).with_name("hubkit.yaml")
SIZES = Path(__file__).with_name("sizes.json")
