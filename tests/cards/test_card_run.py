"""`hubkit card run`: whose blocks run, against which revision, and what is told."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import HUBKIT, environment
from releases import admin, target_of

from hubkit.cards.snippets import Card, Limits, Pin, place_for, run_cards
from hubkit.cards.snippets.trust import path_stranger
from hubkit.core.target import Target
from hubkit.hub.auth import Account
from hubkit.hub.client import Hub, connect
from hubkit.server.process import Running

REPO = "hubkit/shown"
LOADS = """\
import os
from pathlib import Path
from huggingface_hub import hf_hub_download

print(Path(hf_hub_download("{repo}", "which.txt", revision="{revision}")).read_text(), "HF_TOKEN" in os.environ)
"""


def card(*blocks: str) -> str:
    return "# Card\n" + "".join(f"\n```python\n{source}\n```\n" for source in blocks)


def publish(hub: Running, folder: Path, repo: str, visibility: Any = "public") -> Hub:
    """A repo with two branches; each card loads the file of its own branch."""
    connected = connect(target_of(hub, folder))
    connected.ensure_repo(repo, visibility)
    for branch in ("main", "dpo-v0"):
        if branch != "main":
            connected.create_branch(repo, branch, connected.resolve(repo, "main"))
        for path, text in (("README.md", card(LOADS.format(repo=repo, revision=branch))), ("which.txt", branch)):
            connected.api.upload_file(
                path_or_fileobj=text.encode(), path_in_repo=path, repo_id=repo, revision=branch, commit_message="x"
            )
    return connected


def command(hub: Running, folder: Path, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """Not by the tests' ``hubkit``, which asserts that there is no traceback: a block's own is shown."""
    given = environment(folder / "home", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token if token is None else token)
    words = [HUBKIT, "card", "run", *arguments, "--hub", hub.url]
    return subprocess.run(words, env=given, capture_output=True, text=True, timeout=300, check=False)


def card_run(hub: Running, folder: Path, *arguments: str, token: str | None = None) -> tuple[int, Any]:
    """The command against ``hub``, as its owner or with ``token``: exit code and JSON."""
    done = command(hub, folder, *arguments, "--json", token=token)
    return done.returncode, json.loads(done.stdout)


def test_a_repo_is_run_at_the_revision_that_was_asked_for(hub: Running, tmp_path: Path) -> None:
    connected = publish(hub, tmp_path, REPO)
    code, said = card_run(hub, tmp_path, REPO, "--revision", "dpo-v0")
    assert code == 0, said
    (block,) = said["blocks"]
    assert block["revision"] == connected.resolve(REPO, "dpo-v0") and block["output"] == "dpo-v0 False"
    assert said["passed"] is True and block["outcome"] == "passed"


def test_a_private_repo_of_ones_own_is_read_with_the_token(hub: Running, tmp_path: Path) -> None:
    publish(hub, tmp_path, REPO, "private")
    code, said = card_run(hub, tmp_path, REPO)
    assert code == 0, said
    assert said["blocks"][0]["output"] == "main True"


def test_somebody_elses_blocks_need_trust(hub: Running, tmp_path: Path) -> None:
    publish(hub, tmp_path, REPO)
    admin(hub, "POST", "users", {"name": "reader"})
    token = str(admin(hub, "POST", "tokens", {"user": "reader", "role": "read"})["token"])
    for given, why in ((token, "hubkit is neither reader nor an organisation"), ("", "no token that says who you are")):
        code, said = card_run(hub, tmp_path, REPO, token=given)
        assert code == 3 and f"{REPO} is not your own: " in said["error"] and why in said["error"]
        assert "--trust" in said["hint"]
    code, said = card_run(hub, tmp_path, REPO, "--trust", token=token)
    assert code == 0 and said["blocks"][0]["output"] == "main False"


def test_a_file_whose_block_fails(hub: Running, tmp_path: Path) -> None:
    (tmp_path / "my.md").write_text(card("print('fine')", "messages = []\nprint(message)"))
    code, said = card_run(hub, tmp_path, str(tmp_path / "my.md"))
    assert code == 3 and [item["outcome"] for item in said["blocks"]] == ["passed", "failed"]
    assert said["blocks"][1]["why"] == "NameError: name 'message' is not defined"
    done = command(hub, tmp_path, str(tmp_path / "my.md"))
    assert done.returncode == 3 and "my.md, line 8:" in done.stdout and "print(message)" in done.stdout


def test_wrong_inputs_are_said_in_one_sentence(hub: Running, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.md").write_bytes(b"\xe9")
    (tmp_path / "prose.md").write_text("# Nothing to run\n")
    for what, code, words in (
        ("./nowhere.md", 2, "There is no file or folder"),
        ("no such thing", 2, "'no such thing' is not a repo id"),
        (str(tmp_path / "empty"), 2, "has no README.md"),
        (str(tmp_path / "latin.md"), 2, "cannot be read"),
        ("hubkit/absent", 2, ""),
    ):
        got, said = card_run(hub, tmp_path, what)
        assert got == code and words in said["error"], (what, said)
    assert card_run(hub, tmp_path, str(tmp_path / "prose.md")) == (
        0, {"what": str(tmp_path / "prose.md"), "passed": True, "blocks": []},
    )  # fmt: skip


def test_what_shows_that_it_came_from_a_hub(tmp_path: Path) -> None:
    own = tmp_path / "own"
    git = ["git", "-C", str(own)]
    subprocess.run(["git", "init", "-q", str(own)], check=True)
    (own / "README.md").write_text("x")
    assert path_stranger(own) is None and path_stranger(own / "README.md") is None
    subprocess.run([*git, "remote", "add", "origin", "https://github.com/me/model.git"], check=True)
    assert path_stranger(own) == "it is a clone of a repo of me on github.com"
    subprocess.run([*git, "remote", "set-url", "origin", "https://huggingface.co/them/model"], check=True)
    assert path_stranger(own) == "it is a clone of a repo of them on huggingface.co"
    subprocess.run([*git, "remote", "set-url", "origin", "http://me:x@127.0.0.1:8750/them/model"], check=True)
    assert path_stranger(own) == "it is a clone of a repo of them on 127.0.0.1:8750"
    nobody = connect(Target("http://127.0.0.1:8750", tmp_path / "hf"))
    assert path_stranger(own, nobody) == "it is a clone of a repo of them on 127.0.0.1:8750"
    loaded = tmp_path / "loaded"
    (loaded / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (loaded / "README.md").write_text("x")
    assert "was downloaded" in (path_stranger(loaded / "README.md") or "")
    cached = tmp_path / "hub" / "models--them--model" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "README.md").symlink_to(own / "README.md")
    assert "cache" in (path_stranger(cached / "README.md") or "") and "cache" in (path_stranger(cached) or "")


@pytest.mark.parametrize(
    ("url", "whose"),
    [
        ("https://huggingface.co/gpt2", "huggingface.co"),
        ("https://HuggingFace.co/them/model", "a repo of them on huggingface.co"),
        ("https://huggingface.co:443/datasets/them/data", "a repo of them on huggingface.co"),
        ("https://www.huggingface.co/them/model", "a repo of them on huggingface.co"),
        ("https://huggingface.co//them/model", "a repo of them on huggingface.co"),
        ('"https://me:hf_x@huggingface.co/spaces/them/app"  # mine', "a repo of them on huggingface.co"),
        ("git@hf.co:them/model", "a repo of them on huggingface.co"),
        ("ssh://git@hf.co:22/them/model.git", "a repo of them on huggingface.co"),
        ("http://localhost:8750/them/model", "a repo of them on 127.0.0.1:8750"),
        ("http://127.0.0.1:8750/me/model", None),
        ("http://x:y@localhost:8750/datasets/Me/data.git", None),
        ("https://127.0.0.1:8750/me/model", "a repo of me on 127.0.0.1:8750"),
        ("ssh://git@127.0.0.1:8750/me/model", "127.0.0.1:8750"),
        ("http://127.0.0.1:8750/me/../them/model", "127.0.0.1:8750"),
        ("http://127.0.0.1:8750/them/model?/me/model", ""),
        ("http://evil.example\\\\@127.0.0.1:8750/me/model", ""),
        ("http://127.0.0.1:8750@evil.example/me/model", "a repo of me on evil.example"),
        ("http://127.0.0.1:8750/%6de/model", "127.0.0.1:8750"),
        ("http://localhost:8751/me/model", "a repo of me on 127.0.0.1:8751"),
        ("https://huggingface.co.example.org/them/model", "a repo of them on huggingface.co.example.org"),
        ("https://cdn.huggingface.co/me/model", "a repo of me on cdn.huggingface.co"),
        ("git@github.com:them/model.git", "github.com"),
        ("../model", ""),
        ("https://[/them/model", ""),
        ("ext::sh -c true", ""),
    ],
)
def test_whose_clone_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, whose: str | None) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "clone"], check=True)
    config = tmp_path / "clone" / ".git" / "config"
    config.write_text(f'{config.read_text()}[remote "origin"]\n\tURL = {url}\n')
    ours = connect(Target("http://127.0.0.1:8750", tmp_path / "hf", "hf_" + "x" * 34))
    monkeypatch.setattr(ours, "whoami", lambda: Account("me"))
    remote = f"it has a remote that is no repo of yours ({whose or 'not an address on a Hub'})"
    expected = f"it is a clone of {whose}" if whose and " on " in whose else remote
    assert path_stranger(tmp_path / "clone", ours) == (None if whose is None else expected)


def test_a_worktree_is_its_clones(tmp_path: Path) -> None:
    clone, tree = tmp_path / "clone", tmp_path / "tree"
    git = ["git", "-C", str(clone), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", clone], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", tree], check=True, capture_output=True)
    assert path_stranger(tree) is None
    subprocess.run([*git, "remote", "add", "origin", "https://huggingface.co/them/model"], check=True)
    assert path_stranger(tree) == path_stranger(clone) == "it is a clone of a repo of them on huggingface.co"
    (tree / ".git").write_text("gitdir: " + "x" * 9999)
    assert path_stranger(tree) == "git cannot tell where its clone came from"


def test_strangers_blocks_get_no_token_of_another_hub(hub: Running, tmp_path: Path) -> None:
    elsewhere = replace(target_of(hub, tmp_path), embedded=False)
    publish(hub, tmp_path, REPO, "private")
    connected = connect(elsewhere)
    words = [f"word {number}" for number in range(20)]
    with place_for(connected, tmp_path, [*words, REPO], own=False) as place:
        assert place.token is None
    with place_for(connected, tmp_path, [*words, REPO]) as place:
        assert place.token == hub.token, "what is no repo is not asked about"


CLIENT = """\
from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
answer = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Say something."}}], max_tokens=4
)
print("said", repr(answer.choices[0].message.content))
"""


@pytest.mark.train
def test_an_openai_client_is_answered_by_transformers_serve(
    hub: Running, tmp_path: Path, make_model: Any, make_tokenizer: Any
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(REPO, "public")
    connected.create_branch(REPO, "staging/main", connected.resolve(REPO, "main"))
    connected.api.upload_folder(repo_id=REPO, folder_path=tmp_path / "model", revision="staging/main")
    pin = Pin(REPO, "main", connected.resolve(REPO, "staging/main"))
    serve = "\n```sh\ntransformers serve --port 8000\n```\n"
    text = serve + card(CLIENT.format(model=f"{REPO}@main")) + serve + card(CLIENT.format(model=f"{REPO}@nowhere"))
    text += "\n```sh\ntransformers serve --no-such-option\n```\n" + card(CLIENT.format(model=f"{REPO}@main"))
    (tmp_path / "place").mkdir()
    with place_for(connected, tmp_path / "place", [REPO]) as place:
        good, absent, unserved = run_cards([Card("README.md", text, pin)], place, Limits(seconds=240))
    assert good.outcome == "passed" and good.output.startswith("said "), good
    assert good.revision == pin.commit
    assert absent.outcome == "failed" and absent.why.startswith("openai.InternalServerError")
    assert "Output of `transformers serve`:\n" in absent.output and "nowhere" in absent.output
    assert unserved.outcome == "failed" and unserved.why.startswith("`transformers serve` ended with status 2")
