"""`hubkit revisions` as a person types it, against the embedded Hub."""

import os
import pty
import subprocess
from pathlib import Path

import pytest
from access_samples import Issuer
from commands import HUBKIT, environment, hubkit, hubkit_json
from huggingface_hub import CommitOperationAdd
from releases import REPO, Release, admin, faults, hub_of, writes
from samples import RECIPE_TEXT

from hubkit.hub.client import Hub
from hubkit.pipeline.runs import release_lock
from hubkit.server.process import Running


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    """Two variants, released; HUBKIT_HOME is ``tmp_path``, where the Hub of the test runs."""
    release = Release.on(hub, tmp_path).train().publish()
    release.promote()
    return release


@pytest.fixture
def mine(release: Release) -> Hub:
    return hub_of(release)


def test_from_promotion_to_rollback(hub: Running, mine: Hub, tmp_path: Path) -> None:
    def go(*args: str) -> str:
        done = hubkit("revisions", *args, home=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    released = str(mine.head(REPO, "main"))
    diff = go("diff", REPO, "main", "dpo-v0")
    assert "model.safetensors" in diff and "stop rate, merged" in diff and "Tensors: 2 differ, 0 are the same" in diff
    assert "adapter: w" in diff and "U8 [4096]" in diff
    assert "-# main 1" in diff and "+# dpo-v0 1" in diff
    faults(hub)
    plan = go("promote", REPO, "dpo-v0", "main", "--dry-run")
    assert "model.safetensors has other content" in plan and "Nothing was changed" in plan
    assert writes(hub) == []
    done = hubkit("revisions", "promote", REPO, "dpo-v0", "main", "-y", home=tmp_path)
    assert done.returncode == 0 and f"--to {released[:12]}" in done.stderr, "it says how to go back"
    promoted = str(mine.head(REPO, "main"))
    assert done.stdout == f"main is at {promoted}\n" != f"main is at {released}\n"
    assert "already" in go("promote", REPO, "dpo-v0", "main"), "nothing to do is no question"
    back = hubkit_json("revisions", "rollback", REPO, "main", "-y", home=tmp_path)
    assert (back["source"], back["previous"], back["already"]) == (released, promoted, False)
    assert back["commit"] == mine.head(REPO, "main")
    assert "is already a rollback" in go("rollback", REPO, "main")
    steps = hubkit_json("revisions", "history", REPO, "main", home=tmp_path)
    assert [step["kind"] for step in steps[:3]] == ["rollback", "promotion", "release"]
    shown = go("history", REPO, "main", "-n", "2").splitlines()
    assert len(shown) == 3 and "rollback" in shown[1] and "promotion" in shown[2]


@pytest.mark.parametrize(
    "args",
    [
        ("create", REPO, "try"),
        ("tag", REPO, "v1"),
        ("delete", REPO, "dpo-v0", "--force"),
        ("promote", REPO, "dpo-v0", "main"),
        ("rollback", REPO, "main"),
        ("prune", REPO, "--days", "0"),
    ],
)
def test_nobody_is_there_to_ask(hub: Running, mine: Hub, tmp_path: Path, args: tuple[str, ...]) -> None:
    mine.create_branch(REPO, "staging/main", str(mine.head(REPO, "main")))
    before = mine.refs(REPO)
    done = hubkit("revisions", *args, home=tmp_path)
    assert done.returncode == 2 and "Confirmation needs a terminal" in done.stderr and "Pass -y" in done.stderr
    faults(hub)
    done = hubkit("revisions", *args, "--dry-run", home=tmp_path)
    assert done.returncode == 0 and "Nothing was changed (--dry-run)." in done.stdout
    assert hubkit_json("revisions", *args, "--dry-run", home=tmp_path)["dry_run"] is True
    assert writes(hub) == [] and mine.refs(REPO) == before
    assert hubkit("revisions", *args, "-y", home=tmp_path).returncode == 0
    assert mine.refs(REPO) != before


@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("y", 0)])
def test_a_person_is_asked(mine: Hub, tmp_path: Path, answer: str, code: int) -> None:
    before = mine.head(REPO, "main")
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [HUBKIT, "revisions", "promote", REPO, "dpo-v0", "main"]
    done = subprocess.run(
        command, env=environment(tmp_path), stdin=theirs, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert done.stderr.index("model.safetensors has other content") < done.stderr.index("like this? [y/N]")
    assert (mine.head(REPO, "main") != before) == (answer == "y")


def test_a_recipe_in_this_folder_protects(mine: Hub, tmp_path: Path) -> None:
    text = RECIPE_TEXT.replace("repo: me/my-model", f"repo: {REPO}")
    (tmp_path / "hubkit.yaml").write_text(text + "protected: [main, dpo-v0]\n")
    for args in (("promote", REPO, "dpo-v0", "main"), ("rollback", REPO, "main"), ("delete", REPO, "dpo-v0")):
        done = hubkit("revisions", *args, "-y", home=tmp_path, cwd=tmp_path)
        assert done.returncode == 3 and str(tmp_path / "hubkit.yaml") in done.stderr and "--force" in done.stderr
        assert hubkit("revisions", *args, "-y", "--force", home=tmp_path, cwd=tmp_path).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert (
        hubkit("revisions", "rollback", REPO, "main", "--steps", "1", "-y", home=tmp_path, cwd=elsewhere).returncode
        == 0
    )


def test_names(mine: Hub, tmp_path: Path) -> None:
    dpo = mine.head(REPO, "dpo-v0")
    made = hubkit_json("revisions", "create", REPO, "try", "--at", "dpo-v0", "-y", home=tmp_path)
    assert made["commit"] == dpo and made["already"] is False
    below = hubkit("revisions", "create", REPO, "try/x", "-y", home=tmp_path)
    assert below.returncode == 2 and "Git cannot hold a branch 'try/x' beside the branch 'try'" in below.stderr
    assert "Run the command again" not in below.stderr and "500" not in below.stderr
    for option in ("--at", "--revision"):
        said = hubkit_json("revisions", "tag", REPO, "v1", option, str(dpo)[:12], "-y", "-m", "why", home=tmp_path)
        assert said["tag"] == "v1" and said["commit"] == dpo
    assert hubkit("revisions", "tag", REPO, "v1", "--at", "try", home=tmp_path).stdout == f"v1 is at {dpo} already\n"
    assert hubkit("revisions", "tag", REPO, "v1", "-y", home=tmp_path).returncode == 2, "main is elsewhere"
    assert hubkit("revisions", "delete", REPO, "main", "-y", "--force", home=tmp_path).returncode == 3
    assert hubkit_json("revisions", "delete", REPO, "v1", "-y", home=tmp_path)["kind"] == "tag"
    assert hubkit("revisions", "delete", REPO, "try", "--tag", "-y", home=tmp_path).returncode == 2
    assert hubkit("revisions", "delete", REPO, "try", "-y", home=tmp_path).stdout == f"try was at {dpo}\n"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("diff", REPO, "main", "nowhere"), 2, "no revision 'nowhere'"),
        (("promote", REPO, "main", "a b", "-y"), 2, "a space is not allowed"),
        (("rollback", REPO, "main", "--to", "dpo-v0", "-y"), 3, "was never at dpo-v0"),
        (("rollback", REPO, "main", "--to", "x", "--steps", "1"), 2, "cannot be given together"),
        (("rollback", REPO, "main", "--steps", "0"), 2, "--steps"),
        (("history", "hubkit/nothing", "main"), 2, "There is no hubkit/nothing"),
        (("list", REPO, "--type", "bucket"), 2, "--type"),
    ],
)
def test_wrong_inputs(mine: Hub, tmp_path: Path, args: tuple[str, ...], code: int, words: str) -> None:
    before = mine.refs(REPO)
    done = hubkit("revisions", *args, home=tmp_path)
    assert done.returncode == code and words in done.stderr
    assert mine.refs(REPO) == before


@pytest.mark.fault("F7", "F10")
def test_conflict_and_silence_have_their_codes(hub: Running, mine: Hub, tmp_path: Path) -> None:
    moved = {"route": "POST .*/commit/main", "action": "status", "count": 0}
    faults(hub, {**moved, "status": 500})
    done = hubkit("revisions", "promote", REPO, "dpo-v0", "main", "-y", home=tmp_path)
    assert done.returncode == 5 and "Run the same command again" in done.stderr
    faults(hub, {**moved, "status": 412})
    assert hubkit("revisions", "promote", REPO, "dpo-v0", "main", "-y", home=tmp_path).returncode == 4


def test_nothing_is_pruned_while_a_release_runs(release: Release, mine: Hub, tmp_path: Path) -> None:
    mine.create_branch(REPO, "staging/main", str(mine.head(REPO, "main")))
    with release_lock(tmp_path, REPO, release.target):
        done = hubkit("revisions", "prune", REPO, "--days", "0", "-y", home=tmp_path)
    assert done.returncode == 4 and "Another process is releasing" in done.stderr and mine.head(REPO, "staging/main")
    done = hubkit("revisions", "prune", REPO, "-y", home=tmp_path)
    assert done.returncode == 0 and "no staging branch to remove" in done.stdout and "younger than 7" in done.stdout
    done = hubkit("revisions", "prune", REPO, "--days", "0", "-y", home=tmp_path)
    assert done.stdout == "Removed staging/main\n" and mine.head(REPO, "staging/main") is None


def on_terminal(home: Path, width: int, *args: str) -> str:
    """What `hubkit revisions` prints on a terminal of ``width`` columns."""
    ours, theirs = pty.openpty()
    terminal = environment(home, COLUMNS=str(width), TERM="dumb")
    process = subprocess.Popen([HUBKIT, "revisions", *args], env=terminal, stdin=subprocess.DEVNULL, stdout=theirs)
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


DIFF = """\
files              7 changed, 2 added, 5 the same
tensors            2 differ, 0 are the same
stop rate, merged  61.0 % → 60.0 %
benchmark average  25.0 %, the same
card               text: 1 line added, 1 removed
"""


@pytest.mark.parametrize("width", [80, 120])
def test_no_commit_is_cut_on_a_terminal(mine: Hub, tmp_path: Path, width: int) -> None:
    long = "a-branch-with-a-name-that-is-really-long"
    mine.create_branch(REPO, long, str(mine.head(REPO, "dpo-v0")))
    changes = [CommitOperationAdd("x", b"\x1b[2J"), CommitOperationAdd("a/long/" * 9 + "path", b"")]
    mine.api.create_commit(REPO, changes, commit_message="\x1b[31mred\x1b[0m " * 9)
    for args in (("list", REPO), ("history", REPO, "main")):
        text = on_terminal(tmp_path, width, *args)
        assert "\x1b[31m" not in text and "\x1b[2J" not in text
        assert str(mine.head(REPO, "main"))[:12] in text and "60.0 %" in text
        assert max(map(len, text.splitlines())) <= width
    lines = [line.rstrip() for line in on_terminal(tmp_path, width, "diff", REPO, "dpo-v0", "main").splitlines()]
    assert max(map(len, lines)) <= width
    assert lines[2 : lines.index("Files") - 1] == DIFF.splitlines(), "\n".join(lines)


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_ci_job_promotes_with_its_identity(hub: Running, release: Release, mine: Hub, tmp_path: Path) -> None:
    job = Issuer({"repository": "me/ci"})
    admin(hub, "POST", "publishers", {"repo": REPO, "secret": Issuer.KEY, "claims": job.claims})
    elsewhere = tmp_path / "elsewhere"
    with job.serving() as variables:
        promote = ("revisions", "promote", REPO, "dpo-v0", "main", "-y", "--hub", hub.url)
        done = hubkit(*promote, home=elsewhere, **variables)
        assert done.returncode == 0, done.stderr
        assert job.asked == [hub.url]
        assert mine.tree(REPO, "main") == mine.tree(REPO, "dpo-v0")
    refused = hubkit("revisions", "rollback", REPO, "main", "-y", "--hub", hub.url, home=elsewhere)
    assert refused.returncode == 3, "without an identity it may not"
