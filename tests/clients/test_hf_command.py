"""`hf`, the command, in shell scripts as a user would type them."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "name", ["hf_files.sh", *(pytest.param(f"hf_{name}.sh", marks=pytest.mark.soak) for name in ("repos", "more"))]
)
def test_the_command(script: Callable[..., str], name: str) -> None:
    script(name)
