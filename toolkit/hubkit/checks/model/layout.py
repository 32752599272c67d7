"""Files at the wrong place, or of a kind that should not be there."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hubkit.checks.model.adapter import ADAPTER_CONFIG
from hubkit.checks.rules import ADAPTER_AT_ROOT, NO_CONFIG, PICKLE
from hubkit.checks.screening import PICKLE_SUFFIXES
from hubkit.core.findings import Finding


def find(files: Collection[str], adapters: Collection[str]) -> Iterator[Finding]:
    """What is wrong with the paths ``files``; ``adapters`` are those of adapters' configs."""
    if ADAPTER_CONFIG in adapters and "config.json" in files:
        yield ADAPTER_AT_ROOT.finding(
            f"{ADAPTER_CONFIG} is in the same folder as config.json: loaders apply the adapter twice.",
            "Move the adapter's files to a folder adapter/, and load it with subfolder='adapter'.",
            file=ADAPTER_CONFIG,
        )
    sound = any(name.endswith(".safetensors") and "/" not in name for name in files)
    if sound and "config.json" not in files and ADAPTER_CONFIG not in adapters:
        yield NO_CONFIG.finding(
            "config.json is missing: loaders cannot determine the architecture of the weights.",
            "Upload the config.json that was saved with the weights.",
        )
    pickles = sorted(name for name in files if any(name.lower().endswith(suffix) for suffix in PICKLE_SUFFIXES))
    if pickles:
        others = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
        yield PICKLE.finding(
            f"{pickles[0]}{others} can run code when loaded.",
            "Publish safetensors only, without training state.",
            level="warning" if sound else "error",
            file=pickles[0],
        )
