"""Before promotion every Python block of the cards is run against the staged commit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_releases import GgufRelease
from huggingface_hub import CommitOperationAdd
from releases import RECIPE, REPO, Release, admin, faults, hub_of, requests, target_of

from hubkit.cards.gguf import NOT_RUN
from hubkit.cards.render import Rendered
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.hub.client import connect
from hubkit.server.process import Running
from hubkit_stages import snippets

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
    return list(release.perform("snippets[main]").json("snippets.json")["blocks"])


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
            "1 of 2 Python code blocks on the cards of main failed: "
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
        ('client = dict(base_url="http://localhost:8000/v1")', "no `transformers serve` on the card starts"),
        ("if True print('no Python')", "SyntaxError: invalid syntax"),
    ],
)
def test_blocks_that_show_another_model_or_none(hub: Running, tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        run(staged(hub, tmp_path, main=(source,)))


def test_a_block_for_a_program_that_is_not_here_is_skipped_where_the_card_says_so(
    hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As llama-cpp-python is often missing. Without those words a reader would take the block for one that ran."""
    monkeypatch.setattr(snippets, "OPTIONAL", frozenset({"not_there"}))
    needs = "import not_there\nprint('never')"
    release = staged(hub, tmp_path, main=(LOADS, f"# {NOT_RUN}\n{needs}"))
    blocks = run(release)
    assert [(item["outcome"], item["why"]) for item in blocks] == [
        ("passed", ""), ("skipped", "the card says that it is not run"),
    ]  # fmt: skip
    kept = release.run.find("snippets[main]")
    assert kept is not None and kept.summary["figure"] == "1 of 2 blocks ran"
    with pytest.raises(RefusedError, match="No module named 'not_there'"):
        run(staged(hub, tmp_path / "silent", main=(needs,)))


def test_the_card_of_the_gguf_files_is_run_where_they_are_staged(hub: Running, tmp_path: Path) -> None:
    loads = LOADS.replace('"main"', '"gguf"').replace("config.json", "my-model-Q8_0.gguf")
    release = GgufRelease.on(hub, tmp_path).train()
    held = release.made["card[main]"]
    cards = {name: (held.path / name).read_bytes() for name in held.manifest.files}
    release.make("card[main]", {**cards, "README.md": card(LOADS), "gguf/README.md": card(loads)})
    release.publish("main")
    release.make("loadback[main]", {"loadback.json": {}})
    blocks = run(release)
    commit = release.made["publish-gguf[main]"].json("published.json")["commit"]
    assert [(item["card"], item["outcome"]) for item in blocks] == [
        ("README.md", "passed"), ("gguf/README.md", "passed"),
    ]  # fmt: skip
    assert blocks[1]["revision"] == commit and commit in str(blocks[1]["output"])
    assert "gguf" not in hub_of(release).refs(REPO).branches, "before the branch is there"


def test_a_private_repo_is_read_with_a_token_that_may_only_read(hub: Running, tmp_path: Path) -> None:
    show = "import os\nfrom huggingface_hub import HfApi\nprint(HfApi().whoami()['auth']['accessToken']['role'])\n"
    release = Release.on(hub, tmp_path)
    connected = connect(release.target)
    connected.ensure_repo(REPO, "private")
    release = release.train()
    release.make("card[main]", {"README.md": card(LOADS + show), "adapter-README.md": card(), "numbers.json": {}})
    release.perform("publish[main]", {"visibility": "private"})
    release.make("loadback[main]", {"loadback.json": {}})
    (block,) = run(release)
    assert block["outcome"] == "passed" and str(block["output"]).splitlines()[-1] == "read"
    assert connected.tokens("hubkit card run") == [], "the token is ended"
    assert hub.token not in json.dumps(block)


def test_a_public_repo_gives_blocks_no_token(hub: Running, tmp_path: Path) -> None:
    release = staged(hub, tmp_path, main=("import os\nprint('HF_TOKEN' in os.environ)",))
    (block,) = run(release)
    assert block["output"] == "False"


def test_the_base_is_not_fetched_once_more(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    cached = tmp_path / "cache" / "models--them--base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("b" * 40)
    held = cached / "snapshots" / ("b" * 40) / "config.json"
    held.parent.mkdir(parents=True)
    held.write_text("held")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    show = (
        "from huggingface_hub import hf_hub_download\nprint(open(hf_hub_download('them/base', 'config.json')).read())"
    )
    (block,) = run(staged(hub, tmp_path, main=(show,)))
    assert block["output"] == "held" and held.read_text() == "held"


def test_preflight_names_blocks_that_cannot_run(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = Release.on(hub, tmp_path).context("snippets[main]")
    rendered = [Rendered(card("print(message)"), {}, ()), Rendered(card("if True print()"), {}, ())]
    monkeypatch.setattr(snippets, "render_card", lambda *_, **__: rendered.pop(0))
    first, second = snippets.check(ctx)
    assert (first.level, first.exit_code) == ("error", 2)
    assert first.message == "README.md of main, line 7: The block uses 'message', which is not defined."
    assert second.message.startswith("adapter-README.md of main, line 7: The block is not Python: ")


def test_preflight_names_blocks_of_the_recipes_own_template(hub: Running, tmp_path: Path) -> None:
    (tmp_path / "card.jinja").write_text(
        '{% extends "hubkit/model.md.jinja" %}{% block more %}\n```python\nprint(answer, reply)\n```\n{% endblock %}'
    )
    card = RECIPE.card.model_copy(update={"template": "card.jinja"})
    (finding,) = snippets.check(Release.on(hub, tmp_path).context("snippets[main]", {"card": card}))
    assert finding.message.startswith("README.md of main, line ")
    assert "uses 'reply'" in finding.message, "earlier blocks have made the answer"


def test_preflight_names_what_the_blocks_need(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Release.on(hub, tmp_path)
    ctx = release.context("snippets[main]")
    assert list(snippets.check(ctx)) == []
    monkeypatch.setattr(snippets, "find_spec", lambda name: None if name == "peft" else object())
    (finding,) = snippets.check(ctx)
    assert finding.level == "error" and "imports peft; install it so that the block can be tested" in finding.message
    monkeypatch.setattr(snippets, "render_card", _refuse)
    assert list(snippets.check(ctx)) == [], "the stage `card` says that itself"


def _refuse(*_: object, **__: object) -> None:
    raise HubkitError("no card")


def test_of_a_repo_of_others_only_our_own_blocks_are_run(hub: Running, tmp_path: Path) -> None:
    """What its owner edits on a card goes along in a proposal, and is not run on the proposer's machine."""
    told = tmp_path / "told"
    release = staged(hub, tmp_path, main=(LOADS,))
    release.promote()
    hub_of(release).api.create_commit(
        REPO,
        [CommitOperationAdd("README.md", (card(LOADS) + f"\n```python\nopen({str(told)!r}, 'w')\n```\n").encode())],
        commit_message="a block of theirs",
    )
    admin(hub, "POST", "users", {"name": "guest"})
    token = admin(hub, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
    guest = replace(release, target=replace(target_of(hub, tmp_path, token), embedded=False))
    guest.train(2).make("card[main]", {"README.md": card(LOADS), "adapter-README.md": card(), "numbers.json": {}})
    guest.make("loadback[main]", {"loadback.json": {}})
    guest.perform("publish[main]", {"pull_request": True})
    commit = guest.made["publish[main]"].json("published.json")["commit"]
    assert str(told) in str(hub_of(release).read_file(REPO, "README.md", commit)), "it goes along"
    assert [block["outcome"] for block in run(guest)] == ["passed"] and not told.exists()
