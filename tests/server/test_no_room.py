"""A full disk (played by a limit on the size of files) is said, and leaves everything as it was."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hubkit.server.fsck import fsck
from hubkit.server.process import Running


@pytest.mark.parametrize(
    ("name", "content"), [("w.bin", os.urandom(4_000_000)), ("t.txt", os.urandom(2_000_000).hex().encode())]
)
@pytest.mark.fault("F8")
def test_no_room(api: HfApi, hub: Running, name: str, content: bytes) -> None:
    api.create_repo("me/model")
    start = api.model_info("me/model").sha
    server = psutil.Process(hub.pid)
    before = server.rlimit(psutil.RLIMIT_FSIZE)
    server.rlimit(psutil.RLIMIT_FSIZE, (1_000_000, before[1]))
    with pytest.raises((HfHubHTTPError, RuntimeError)) as refused:
        api.create_commit("me/model", [CommitOperationAdd(name, content)], commit_message="m")
    error = refused.value if isinstance(refused.value, HfHubHTTPError) else refused.value.__cause__
    assert isinstance(error, HfHubHTTPError) and error.response.status_code == 507
    assert api.model_info("me/model").sha == start and fsck(hub.data) == []
    assert list((hub.data / "tmp").iterdir()) == []
    server.rlimit(psutil.RLIMIT_FSIZE, before)
    api.create_commit("me/model", [CommitOperationAdd(name, content)], commit_message="m")
    assert Path(api.hf_hub_download("me/model", name)).read_bytes() == content
    assert fsck(hub.data) == []


def test_who_sends_much_without_a_token_hears_why_it_is_refused(hub: Running) -> None:
    answer = httpx.post(f"{hub.url}/api/models/me/model/commit/main", content=b"x" * 20_000_000)
    assert answer.status_code == 401 and "password" in answer.json()["error"]
