"""How many requests `hubkit check REPO` sends: one listing of each repo, and one for each content that it reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd

from hubkit.checks.model import FolderSource, RepoSource, check
from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect
from hubkit.server.process import Running

SECRET = "token: hf_" + "a1B2" * 9
ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "hubkit/base"}).encode()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The requests that are sent, counted by their path; each is sent as it is."""
    counted: Counter[str] = Counter()
    send = httpx2.Client.send

    def counting(self: httpx2.Client, request: httpx2.Request, *args: Any, **more: Any) -> httpx2.Response:
        counted[request.url.path] += 1
        return send(self, request, *args, **more)

    monkeypatch.setattr(httpx2.Client, "send", counting)
    return counted


@pytest.fixture
def connection(hub: Running, tmp_path: Path) -> Hub:
    return connect(Target(hub.url, tmp_path / "hf", hub.token, embedded=True))


def publish(connection: Hub, repo: str, files: dict[str, bytes]) -> None:
    connection.api.create_repo(repo)
    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    connection.api.create_commit(repo, added, commit_message="all")


def test_each_content_is_requested_once_and_each_repo_listed_once(connection: Hub, sent: Counter[str]) -> None:
    files = {f"data/{number:03}.txt": f"line {number}\n".encode() for number in range(60)}
    files |= {f"copies/{number}.txt": b"the same\n" for number in range(20)}
    files |= {f"run-{number}/adapter_config.json": ADAPTER for number in range(5)}
    files |= {f"picture-{number}.png": b"\x89PNG" + bytes([number]) for number in range(5)}
    files |= {
        "config.json": b'{"model_type": "llama"}',
        "README.md": b"---\nlicense: mit\n---\n",
        "z.md": SECRET.encode(),
    }
    publish(connection, "hubkit/base", {"config.json": b"{}"})
    publish(connection, "hubkit/many", files)
    sent.clear()
    report = check(RepoSource(connection, "hubkit/many"))
    assert [item.file for item in report.findings if item.rule == "secret"] == ["z.md"]
    read = [path for path in sent if "/resolve/" in path]
    contents = {content for path, content in files.items() if not path.endswith(".png")}
    settings = 5  # adapters' settings are read by path, and so once each, before all files are screened
    assert sum(sent[path] for path in read) <= len(contents) + settings
    assert sum(count for path, count in sent.items() if "/tree/" in path) == 2
    assert not any(path.endswith(".png") for path in read)


def test_files_of_a_repo_are_read_as_those_of_a_folder(connection: Hub, tmp_path: Path) -> None:
    files = {"a.txt": b"one", "b.txt": b"one", "c.txt": b"two", "empty": b""}
    publish(connection, "hubkit/few", files)
    for name, content in files.items():
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / name).write_bytes(content)
    repo, folder = RepoSource(connection, "hubkit/few"), FolderSource(tmp_path / "few")
    repo.read("c.txt")
    for paths in (list(files), ["b.txt"], []):
        assert repo.contents(paths) == folder.contents(paths) == {path: files[path] for path in paths}


def test_a_file_that_is_too_large_is_not_requested(
    connection: Hub, monkeypatch: pytest.MonkeyPatch, sent: Counter[str]
) -> None:
    publish(connection, "hubkit/large", {"a.txt": b"x" * 2000})
    source = RepoSource(connection, "hubkit/large")
    source.files()
    monkeypatch.setattr("hubkit.checks.source.MAX_READ_BYTES", 1000)
    sent.clear()
    with pytest.raises(RefusedError, match="too large to read"):
        source.contents(["a.txt"])
    assert not sent
