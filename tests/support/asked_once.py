"""What `hubkit plan` asks TRL, PEFT and this machine, asked once for all homes of a test run.

A plan keeps the answers in hubkit's home, by the digest of all that shapes them: a child process that imports PyTorch
takes 6 s of processor time or more, and a new home asks again. Here the homes of all tests share the answers.
tests/pipeline/test_recipe_checks.py and test_costs.py test how they are found and kept.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

FILES: dict[str, type] = {"checked-arguments.json": list, "measured.json": dict}
"""The files of a home that have answers: a list of digests, and answers by digest."""
_shared: Path | None = None


def share(folder: Path) -> None:
    """Keep the answers in ``folder``, which other processes may share."""
    global _shared
    folder.mkdir(exist_ok=True)
    _shared = folder


def lend(home: Path) -> None:
    """Give ``home`` the answers of other homes."""
    _copy(_shared, home)


def keep(home: Path) -> None:
    """Keep the answers that ``home`` has."""
    _copy(home, _shared)


def _copy(source: Path | None, target: Path | None) -> None:
    """Add what the files in ``source`` have to those in ``target``."""
    if source is None or target is None or _shared is None or not any((source / name).exists() for name in FILES):
        return
    with (_shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            known, found = _read(target / name, name), _read(source / name, name)
            joined = (
                {**found, **known}
                if isinstance(known, dict)
                else [*known, *(item for item in found if item not in known)]
            )
            if joined != known:
                (target / name).write_text(json.dumps(joined), encoding="utf-8")


def _read(path: Path, name: str) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    return value if isinstance(value, FILES[name]) else FILES[name]()
