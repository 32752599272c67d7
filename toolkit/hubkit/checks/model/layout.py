"""Files at the wrong place, or of a kind that should not be there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from hubkit.checks.model.adapter import ADAPTER_CONFIG
from hubkit.checks.model.family import weights_of_transformers
from hubkit.checks.rules import ADAPTER_AT_ROOT, NO_CONFIG, PICKLE
from hubkit.checks.screening import PICKLE_SUFFIXES
from hubkit.core.findings import Finding

_SETTINGS_OF_OTHERS = frozenset({"params.json", "model_index.json", "open_clip_config.json"})
"""What other programs have in place of config.json: Mistral's and Meta's own formats, diffusers, open_clip."""


def find(files: Collection[str], adapters: Collection[str], card: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with ``files``. ``adapters`` are the configs of adapters, ``card`` is the front matter."""
    loaded = weights_of_transformers(files)
    if ADAPTER_CONFIG in adapters and "config.json" in files and loaded:
        yield ADAPTER_AT_ROOT.finding(
            f"{ADAPTER_CONFIG} is in the same folder as config.json and {loaded[0]}: loaders apply the adapter twice.",
            "Move the adapter's files to a folder adapter/, and load it with subfolder='adapter'.",
            file=ADAPTER_CONFIG,
        )
    if loaded and "config.json" not in files and ADAPTER_CONFIG not in adapters:
        yield from _no_config(files, card)
    pickles = sorted(name for name in files if _is_pickle(name))
    if pickles:
        others = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
        yield PICKLE.finding(
            f"{pickles[0]}{others} can run code when loaded.",
            "Publish safetensors only, without training state.",
            level="warning",
            file=pickles[0],
        )


def _no_config(files: Collection[str], card: Mapping[str, Any]) -> Iterator[Finding]:
    """An error where transformers is to load the weights; other libraries have other settings files."""
    if card.get("library_name", "transformers") != "transformers" or _SETTINGS_OF_OTHERS & set(files):
        return
    yield NO_CONFIG.finding(
        "config.json is missing: transformers cannot determine the architecture of the weights.",
        "Upload the config.json that was saved with the weights.",
    )


def _is_pickle(name: str) -> bool:
    """Whether a file is a pickle by its name; OpenVINO's weights have the same suffix and are none."""
    return PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES and not PurePosixPath(name).name.startswith("openvino")
