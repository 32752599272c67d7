"""A pytest plugin: points huggingface_hub's tests at HF_ENDPOINT (their own constant is read at import), and leaves
out the tests that ``left_out.toml`` names.
"""

import fnmatch
import importlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

importlib.import_module("tests.testing_constants").ENDPOINT_STAGING = os.environ["HF_ENDPOINT"].rstrip("/")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselect what is left out, and write how many tests each entry of the list stands for."""
    listed = os.environ.get("HUBKIT_LEFT_OUT")
    if not listed:
        return
    entries, counts = json.loads(Path(listed).read_text(encoding="utf-8")), Counter[int]()
    kept, left = [], []
    for item in items:
        number = next((at for at, entry in enumerate(entries) if _names(entry, item)), None)
        if number is None:
            kept.append(item)
        else:
            left.append(item)
            counts[number] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=left)
    if not hasattr(config, "workerinput") or config.workerinput["workerid"] == "gw0":
        Path(f"{listed}.counts").write_text(json.dumps([counts[at] for at in range(len(entries))]))


def _names(entry: dict[str, Any], item: Any) -> bool:
    if "marker" in entry:
        return item.get_closest_marker(entry["marker"]) is not None
    name = item.nodeid.removeprefix("tests/")
    return any(fnmatch.fnmatchcase(name, f"{pattern}*") for pattern in entry["tests"])
