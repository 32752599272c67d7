"""@huggingface/hub, the client for JavaScript, in Node."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = "@huggingface/hub@2.17.5"


@pytest.mark.soak
@pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None,
    reason="node and npm are not both installed (apt-get install nodejs npm): the JavaScript client is UNTESTED",
)
def test_a_script_in_node(script: Callable[..., str], tmp_path: Path) -> None:
    """It needs npm's registry, so it is not part of every run; test_wire.py sends what it found."""
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    script("javascript.mjs", at=tmp_path)
