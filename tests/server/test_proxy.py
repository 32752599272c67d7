"""A Hub behind a reverse proxy that ends TLS: huggingface_hub, git and git-lfs by its public address; metrics."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from forked_hubs import ForkedHubs
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from proxies import DOCS, PROXIES, free_port, tls_proxy
from real_git import Git, address, git, needs_git

from hubkit.server import process
from hubkit.server.process import Running

__all__ = ["git"]

CLIENT = """
import os
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/model", private=True)
api.upload_file(path_or_fileobj=b"w" * 300_000, path_in_repo="w.bin", repo_id="me/model")
api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="me/model")
print(api.hf_hub_download("me/model", "w.bin"))
"""


@needs_git
@pytest.mark.parametrize("proxy", PROXIES)
def test_clients_by_the_public_address(
    proxy: str, forked_hubs: ForkedHubs, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    script: Callable[..., str],
) -> None:  # fmt: skip
    port = free_port()
    public = f"https://127.0.0.1:{port}"
    monkeypatch.setenv("HUBKIT_PUBLIC_URL", public)
    data = tmp_path / "behind"
    behind = forked_hubs.start(data)
    try:
        with tls_proxy(proxy, port, int(behind.url.rpartition(":")[2]), tmp_path) as trusted:
            # hf-xet trusts the roots that it was built with alone: with this certificate it cannot be tried
            names = {"HF_ENDPOINT": public, "SSL_CERT_FILE": str(trusted), "HF_HUB_DISABLE_XET": "1"}
            path = Path(script(CLIENT, token=behind.token, **names).strip())
            assert path.read_bytes() == b"w" * 300_000
            tls = {"GIT_SSL_CAINFO": str(trusted)}
            url = address(public, behind.token, "me/model")
            git("lfs", "install", "--skip-repo", at=tmp_path)
            git("clone", "-q", url, str(tmp_path / "work"), at=tmp_path, **tls)
            assert (tmp_path / "work" / "w.bin").stat().st_size == 300_000
            (tmp_path / "work" / "x.bin").write_bytes(os.urandom(2_000_000))
            (tmp_path / "work" / "y.txt").write_text(os.urandom(1_500_000).hex())  # sent in chunks
            git("add", "-A", at=tmp_path / "work")
            git("commit", "-qm", "by git", at=tmp_path / "work")
            git("push", "-q", at=tmp_path / "work", **tls)
            api = HfApi(endpoint=behind.url, token=behind.token)
            assert {"x.bin", "y.txt"} < set(api.list_repo_files("me/model"))
            with httpx.Client(verify=ssl.create_default_context(cafile=trusted)) as client:
                asked = client.get(f"{public}/api/models", headers={"Host": "evil.example"})
                assert asked.status_code == 421 or not asked.content, "Caddy answers other names itself, with nothing"
                page = client.get(
                    f"{public}/me/model", headers={"Origin": public, "Authorization": f"Bearer {behind.token}"}
                )
                assert page.status_code == 200 and "only from it" not in page.text
                assert client.get(f"{public}/", headers={"Origin": f"http://127.0.0.1:{port}"}).status_code == 403
    finally:
        process.stop(data)


def test_a_public_url_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBKIT_PUBLIC_URL", "hub.example.org/path")
    with pytest.raises(Exception, match="HUBKIT_PUBLIC_URL is"):
        process.start(tmp_path / "hub", port=0)


def test_metrics(hub: Running, api: HfApi, raw: httpx.Client, make_token: Callable[..., str]) -> None:
    api.create_repo("me/model")
    api.upload_file(path_or_fileobj=b"\0" * 4000, path_in_repo="w.bin", repo_id="me/model")
    raw.get("/me/model/resolve/main/absent")
    answer = raw.get("/api/hubkit/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values: dict[str, float] = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="[^"]*",?)*\})?) ([0-9.e+-]+)', line)
            assert match is not None, line
            values[match[1]] = float(match[2])
    assert values['hubkit_requests_total{kind="file",method="GET",status="404"}'] == 1
    assert values['hubkit_request_seconds_bucket{kind="file",le="+Inf"}'] == 1
    assert values['hubkit_repos{type="model"}'] == 1 and values["hubkit_lfs_bytes"] == 4000
    assert values["hubkit_requests_in_progress"] == 1 and values["process_resident_memory_bytes"] > 1e7
    names = {name.partition("{")[0].removesuffix("_bucket").removesuffix("_sum") for name in values}
    documented = set(re.findall(r"`(hubkit_[a-z_]+)", DOCS.read_text(encoding="utf-8")))
    assert documented == {name for name in names if name.startswith("hubkit_")} - {"hubkit_request_seconds_count"}
    stranger = raw.get("/api/hubkit/metrics", headers={"Authorization": f"Bearer {make_token('zoe')}"})
    assert stranger.status_code == 403 and httpx.get(f"{hub.url}/api/hubkit/metrics").status_code == 401
