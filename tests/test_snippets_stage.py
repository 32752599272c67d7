"""Before promotion every Python block of the cards is run against the staged commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from releases import REPO, Release, faults, requests

from hubkit.errors import HubkitError, RefusedError
from hubkit.hub import connect
from hubkit.server.process import Running
from hubkit_stages import publish, snippets

LOADS = """
from huggingface_hub import hf_hub_download

repo, revision = "hubkit/my-model", "main"
print(hf_hub_download(repo, "config.json", revision=revision))
"""


def card(*blocks: str) -> str:
    return "---\nlicense: apache-2.0\n---\n# Card\n" + "".join(f"\n```python\n{source}\n```\n" for source in blocks)


def staged(hub: Running, folder: Path, *, main: tuple[str, ...], adapter: tuple[str, ...] = ()) -> Release:
    """A release of which only the staging branch of 'main' is on the Hub."""
    release = Release.on(hub, folder).train()
    release.make("card[main]", {"README.md": card(*main), "adapter-README.md": card(*adapter), "numbers.json": {}})
    release.publish("main")
    release.make("loadback[main]", {"loadback.json": {}})
    return release


def run(release: Release) -> list[dict[str, object]]:
    made = snippets.run(release.context("snippets[main]", {}))
    return list(made.json("snippets.json")["blocks"])


def test_blocks_load_the_staged_commit_before_the_branch_is_there(hub: Running, tmp_path: Path) -> None:
    release = staged(hub, tmp_path, main=(LOADS, "print('second')"), adapter=(LOADS,))
    connected = connect(release.target)
    assert connected.head(REPO, "main") != release.made["publish[main]"].json("published.json")["commit"]
    faults(hub)
    blocks = run(release)
    commit = release.made["publish[main]"].json("published.json")["commit"]
    assert [(item["card"], item["block"], item["outcome"]) for item in blocks] == [
        ("README.md", 1, "passed"), ("README.md", 2, "passed"), ("adapter/README.md", 1, "passed"),
    ]  # fmt: skip
    assert commit in str(blocks[0]["output"]) and [item["revision"] for item in blocks] == [commit, None, commit]
    assert any(f"/{REPO}/resolve/{commit}/config.json" in line for line in requests(hub)), "it was loaded from the Hub"
    summary = release.run.find("snippets[main]")
    assert summary is not None and summary.summary["figure"] == "3 of 3 blocks ran"
    assert not list(release.run.work.rglob("hf")), "the blocks' cache is removed"


def test_a_broken_block_stops_the_release(hub: Running, tmp_path: Path) -> None:
    release = staged(hub, tmp_path, main=("messages = []\nprint(message)",), adapter=(LOADS,))
    with pytest.raises(RefusedError) as caught:
        run(release)
    assert caught.value.exit_code == 3
    assert (
        caught.value.message
        == (
            "1 of the 2 Python blocks on the cards of main did not run: "
            "README.md line 8: NameError: name 'message' is not defined"
        )
        or "README.md line 7: NameError" in caught.value.message
    )
    assert caught.value.hint and "Nothing was promoted" in caught.value.hint
    assert release.run.find("snippets[main]") is None
    (line,) = [item for item in release.run.journal() if item["event"] == "snippets-failed"]
    assert "print(message)" in line["blocks"][0]["output"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            'from huggingface_hub import snapshot_download\nsnapshot_download("hubkit/my-model")',
            "is not pinned to 'main'",
        ),
        ('client = dict(base_url="http://localhost:8000/v1")', "no `transformers serve` starts"),
        ("if True print('no Python')", "SyntaxError: invalid syntax"),
    ],
)
def test_blocks_that_show_another_model_or_none(hub: Running, tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        run(staged(hub, tmp_path, main=(source,)))


def test_a_private_repo_is_read_with_a_token_that_may_only_read(hub: Running, tmp_path: Path) -> None:
    show = "import os\nfrom huggingface_hub import HfApi\nprint(HfApi().whoami()['auth']['accessToken']['role'])\n"
    release = Release.on(hub, tmp_path)
    connected = connect(release.target)
    connected.ensure_repo(REPO, "private")
    release = release.train()
    release.make("card[main]", {"README.md": card(LOADS + show), "adapter-README.md": card(), "numbers.json": {}})
    ctx = release.context("publish[main]", {"repo": REPO, "visibility": "private"})
    release.made["publish[main]"] = publish.run(ctx)
    release.make("loadback[main]", {"loadback.json": {}})
    (block,) = run(release)
    assert block["outcome"] == "passed" and str(block["output"]).splitlines()[-1] == "read"
    assert connected.tokens("hubkit card run") == [], "the token is ended"
    assert hub.token not in json.dumps(block)


def test_a_public_repo_gives_blocks_no_token(hub: Running, tmp_path: Path) -> None:
    release = staged(hub, tmp_path, main=("import os\nprint('HF_TOKEN' in os.environ)",))
    (block,) = run(release)
    assert block["output"] == "False"


def test_preflight_names_what_the_blocks_need(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Release.on(hub, tmp_path)
    ctx = release.context("snippets[main]", {})
    assert list(snippets.check(ctx)) == []
    monkeypatch.setattr(snippets, "find_spec", lambda name: None if name == "peft" else object())
    (finding,) = snippets.check(ctx)
    assert finding.level == "error" and "imports peft, which is not installed" in finding.message
    monkeypatch.setattr(snippets, "render_card", _refuse)
    assert list(snippets.check(ctx)) == [], "the stage `card` says that itself"


def _refuse(*_: object) -> None:
    raise HubkitError("no card")
