"""A home for releases of long runs, whose embedded Hub does not outlive the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import hubkit


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The ``HUBKIT_HOME`` of one test; its Hub, if one was started, is stopped at the end."""
    yield tmp_path / "home"
    hubkit("hub", "stop", home=tmp_path / "home")
