"""Trainings keep what they computed of a reference: for each test file in a home of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBKIT_HOME", str(tmp_path_factory.mktemp("home")))
        yield
