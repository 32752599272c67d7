"""Where hubkit keeps runs and the embedded Hub."""

from __future__ import annotations

import os
from pathlib import Path


def hubkit_home() -> Path:
    """Where runs and the embedded Hub are kept: ``HUBKIT_HOME``, else the nearest ``.hubkit`` upwards, else here."""
    if named := os.environ.get("HUBKIT_HOME"):
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".hubkit").is_dir():
            return folder / ".hubkit"
    return here / ".hubkit"
