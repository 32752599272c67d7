"""What the tests of the embedded Hub share. The ``hub`` fixture itself is in ``tests/conftest.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hubkit.server.accounts.accounts import Actor
from hubkit.server.hub import Hub
from hubkit.server.process import Running


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's cache is keyed by repo id, not by Hub: each test has its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def api(hub: Running) -> HfApi:
    """The unmodified client, as the Hub's owner."""
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def raw(hub: Running) -> Iterator[httpx.Client]:
    """Plain HTTP as the owner: it sends what the client would not."""
    with httpx.Client(base_url=hub.url, headers={"Authorization": f"Bearer {hub.token}"}, timeout=20) as client:
        yield client


@pytest.fixture
def make_token(raw: httpx.Client) -> Callable[..., str]:
    """Make the user on first use, and a token for it."""

    def make(user: str, role: str = "write") -> str:
        raw.post("/api/hubkit/users", json={"name": user})
        answer = raw.post("/api/hubkit/tokens", json={"user": user, "role": role})
        return str(answer.raise_for_status().json()["token"])

    return make


@pytest.fixture
def script(hub: Running, tmp_path: Path) -> Callable[..., str]:
    """Run Python in a child whose HF_ENDPOINT is the Hub (libraries read it at import); returns what it printed."""

    def run(code: str, *, token: str | None = None, **extra: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": token or hub.token, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | extra, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub in this process, which serves nobody."""
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.close()


@pytest.fixture
def owner(own_hub: Hub) -> Actor:
    """The owner of ``own_hub``."""
    actor = own_hub.accounts.identify(own_hub.folder.owner_token.read_text().strip())
    assert actor is not None
    return actor


def tree_of(folder: Path) -> set[Any]:
    """Every path below a folder."""
    return {path.relative_to(folder) for path in folder.rglob("*")}
