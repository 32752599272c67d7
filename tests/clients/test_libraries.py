"""The Python libraries that talk to a Hub, each in a script that a user could have written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_SCRIPTS = ["library.py", "file_system.py", "of_datasets.py", "training.py", "space.py"]


@pytest.mark.parametrize("name", _SCRIPTS)
def test_a_script_runs_as_on_any_hub(script: Callable[..., str], name: str) -> None:
    script(name)
