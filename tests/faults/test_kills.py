"""Ends that nobody chose, one after another until nothing is left to end: rows F1, F2 and C2."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import HUBKIT, environment, until
from kills import REQUESTS, killed_at
from releases import REPO, Release, assert_whole, faults, heads, hub_of, manifest, requests

from hubkit.core.trees import compare, tree_of
from hubkit.pipeline.runs import Run
from hubkit.recipe.stage import StageResult
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder
from hubkit_stages import publish

Record = Callable[[str, object], None]

CHILD = textwrap.dedent("""
    import itertools, os, signal, sys
    from pathlib import Path
    from releases import Release
    from hubkit.pipeline.runs import Run
    from hubkit.server.process import Running
    url, data, token, home, number, moment = sys.argv[1:]
    release = Release.on(Running(url, 0, Path(data), token), Path(home)).train(int(number))
    lines, log = itertools.count(1), Run.log
    def counted(self, event, **facts):
        last = next(lines) == int(number)
        if last and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        log(self, event, **facts)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
    Run.log = counted
    release.publish().promote()
""")


def child(code: str, *args: object) -> int:
    """Run ``code`` in a process of its own; its return code."""
    command = [sys.executable, "-c", code, *map(str, args)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=variables, timeout=120, check=False).returncode


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("before", 2),
        ("after", 2),
        pytest.param("before", 1, marks=pytest.mark.soak),
        pytest.param("after", 1, marks=pytest.mark.soak),
    ],
)
def test_killed_at_the_nth_line_of_the_journal(
    hub: Running, tmp_path: Path, moment: str, step: int, record_property: Record
) -> None:
    """N = 1, 2, ... until a release comes through; each is published over the one before.

    "before": what the line tells was done, and the line was never written. `make test` kills before each odd line and
    after each even one, `make soak` before and after each.
    """
    first = Release.on(hub, tmp_path / "0").train(100).publish()
    first.promote()
    connected, old = hub_of(first), heads(first)
    first_line = 2 if moment == "after" and step == 2 else 1
    for number in range(first_line, 40, step):
        home = tmp_path / str(number)
        before = {name: [item.id for item in connected.history(REPO, name)] for name in old}
        code = child(CHILD, hub.url, hub.data, hub.token, home, number, moment)
        killed, there = heads(first), {path.name for path in Folder(hub.data).lfs.rglob("*") if path.is_file()}
        release = Release.on(hub, home).train(number)
        faults(hub)
        release.publish()
        sent = [line.partition("?")[0].rsplit("/", 1)[1] for line in requests(hub) if line.startswith("PUT ")]
        release.promote()
        assert not set(sent) & there and len(sent) == len(set(sent)), "no stored byte is sent again"
        for name in old:
            assert killed[name] == old[name] or not compare(
                connected.tree(REPO, killed[name]), connected.tree(REPO, name)
            ), "old or new, and whole"
            assert_whole(release, name)
            assert [item.id for item in connected.history(REPO, name)][1:] == before[name], "exactly one new commit"
        assert sorted(heads(release)) == ["dpo-v0", "main"]
        old = heads(release)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 10 < number < 38, "every line of the journal was struck, and the loop came to its end"
    which = "each" if step == 1 else "every other one"
    figure = f"killed {moment} {which} of {number - 1} lines; old or new and whole, then one commit"
    record_property("figure", figure)


@pytest.mark.fault("F2")
@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_hub_takes_a_commit(
    hub: Running, tmp_path: Path, which: signal.Signals, code: int, record_property: Record
) -> None:
    release = Release.on(hub, tmp_path).train().publish("main")
    connected, home = hub_of(release), tmp_path / "home"
    before = [item.id for item in connected.history(REPO, "main")]
    variables = environment(home, HF_ENDPOINT=hub.url, HF_TOKEN=hub.token, TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    command = [HUBKIT, "revisions", "promote", REPO, "staging/main", "main", "-y", "--hub", hub.url]
    faults(hub, {"route": "POST .*/commit/main", "action": "hang", "seconds": 60})
    with subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: any("/commit/main" in line for line in requests(hub)), 30)
        begun = time.monotonic()
        running.send_signal(which)
        _, said = running.communicate(timeout=20)
    took = time.monotonic() - begun
    assert running.returncode == code and took < 10, said
    assert "Traceback" not in said and hub.token not in said
    assert not list((tmp_path / "tmp").iterdir()), "no file stays where files are not kept"
    assert [item.id for item in connected.history(REPO, "main")] == before
    faults(hub)
    assert subprocess.run(command, env=variables, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert [item.id for item in connected.history(REPO, "main")][1:] == before, "exactly one new commit"
    assert_whole(release, "main")
    record_property("figure", f"{which.name}: exit {code} in {took:.1f} s")


UPLOADING = textwrap.dedent("""
    import sys
    from pathlib import Path
    from releases import Release
    from hubkit.server.process import Running
    url, data, token, home = sys.argv[1:]
    Release.on(Running(url, 0, Path(data), token), Path(home)).train().publish("main")
""")


@pytest.mark.fault("F2")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_upload(hub: Running, tmp_path: Path, which: signal.Signals) -> None:
    """The publishing step's own process; the command around it turns this into 130 and 143."""
    command = [sys.executable, "-c", UPLOADING, hub.url, str(hub.data), hub.token, str(tmp_path)]
    (tmp_path / "tmp").mkdir()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path / "tmp")}
    faults(hub, {"route": "^PUT ", "action": "hang", "seconds": 60, "count": 0})
    with subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL) as running:
        until(lambda: any(line.startswith("PUT ") for line in requests(hub)), 30)
        running.send_signal(which)
        running.wait(45)  # the upload hangs for a minute
    assert running.returncode == -which
    assert not list((tmp_path / "tmp").iterdir())
    faults(hub)
    release = Release.on(hub, tmp_path).train().publish("main")
    assert len(hub_of(release).history(REPO, "staging/main")) == 2


NO_MANIFEST = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from hubkit.pipeline import runs
    from releases import Release
    from hubkit.server.process import Running
    url, data, token, home, step, moment = sys.argv[1:]
    release = Release.on(Running(url, 0, Path(data), token), Path(home)).train()
    real = runs.write_json
    def die(path, value):
        if path.name == "manifest.json" and path.parent.parent.name == step:
            if moment == "half":
                path.with_name(".manifest.json.x.tmp").write_bytes(b'{"step": ')
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, value)
    runs.write_json = die
    release.publish()
    release.promote()
""")


@pytest.mark.fault("C2")
@pytest.mark.parametrize("moment", ["none", "half"])
@pytest.mark.parametrize("step", ["publish[main]", "publish[dpo-v0]", "promote"])
def test_killed_before_the_manifest_a_step_is_not_done(hub: Running, tmp_path: Path, step: str, moment: str) -> None:
    assert child(NO_MANIFEST, hub.url, hub.data, hub.token, tmp_path, step, moment) == -signal.SIGKILL
    release = Release.on(hub, tmp_path)
    folder = release.run.out(step)
    assert any(folder.iterdir()) and not (folder / "manifest.json").exists(), "written, but for the manifest"
    assert release.run.find(step) is None, "so it is not done"
    faults(hub)
    release.train().publish().promote()
    assert release.run.find(step) is not None
    for name in ("main", "dpo-v0"):
        assert_whole(release, name)
        assert len(hub_of(release).history(REPO, name)) == 2, "the repo's first commit and one more"
    sent = [line for line in requests(hub) if line.startswith("PUT ")]
    assert len(sent) == (2 if step == "publish[main]" else 0), "only what was never begun is sent"


@pytest.mark.fault("F1")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_an_upload_ahead_of_the_gates_nothing_shows_and_the_same_command_goes_on(
    hub: Running, tmp_path: Path, moment: str, record_property: Record
) -> None:
    """At each request and each line of the journal, each time with other weights; then begun again, then published."""
    for number in range(1, 20):
        release = Release.on(hub, tmp_path / str(number)).train(number)
        connected = hub_of(release)
        connected.ensure_repo(REPO, "public")
        before, stored = connected.refs(REPO), Folder(hub.data)
        faults(hub)
        code = killed_at(number, moment, lambda release=release: upload_ahead(release), REQUESTS)  # type: ignore[misc]
        there = {path.name for path in stored.lfs.rglob("*") if path.is_file()}
        assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in stored.lfs.rglob("*/*/*"))
        faults(hub)
        upload_ahead(release)
        sent = [line.partition("?")[0].rsplit("/", 1)[1] for line in requests(hub) if line.startswith("PUT ")]
        assert not {*sent} & there, "no stored byte is sent again"
        assert connected.refs(REPO) == before, "neither what was killed nor what went on shows on a branch"
        faults(hub)
        release.publish("main")
        assert not [line for line in requests(hub) if line.startswith("PUT ")], "publishing sends no weights"
        assert not compare(tree_of(manifest(release, "main")), connected.tree(REPO, "staging/main")), "it is whole"
        connected.delete_branch(REPO, "staging/main")
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 4 < number < 19, "each was struck, and the loop came to its end"
    record_property("figure", f"killed {moment} each of {number - 1} requests and lines; no branch changed, none twice")


def upload_ahead(release: Release) -> None:
    """What the worker does that begins to publish `main` as soon as its weights are merged."""
    publish.ahead(release.context("publish[main]"))


def train_again(run: Run, key: str, weights: str) -> None:
    """Train in no time what claims to have taken an hour."""
    step = "train[dpo]"
    run.begin(step, key)
    (run.out(step) / "adapter").mkdir()
    (run.out(step) / "adapter" / "adapter_model.safetensors").write_text(weights)
    (run.out(step) / "training.json").write_text('{"stage": "dpo", "seconds": 3600.0}')
    run.keep(step, key, StageResult(Made(), "made"), 3600.0)


class Made:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


@pytest.mark.fault("C2")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_an_adapter_replaces_another_one_of_both_is_there(
    tmp_path: Path, moment: str, record_property: Record
) -> None:
    """At no point is there none, and the old one is never lost."""
    for number in range(1, 60):
        run = Run(tmp_path / str(number))
        run.path.mkdir()
        train_again(run, "old", "old weights")
        code = killed_at(number, moment, lambda run=run: train_again(run, "new", "new weights"))  # type: ignore[misc]
        found = run.find("train[dpo]")
        assert found is not None and found.key in {"old", "new"}, "whole, before anything is put in order"
        run.settle()
        places = {kept.key: kept.stored for kept in run.kept()}
        settled = run.find("train[dpo]")
        assert settled is not None and settled.key == found.key and settled.path.parent == run.artifacts
        places[settled.key] = settled
        old = places["old"]
        assert old is not None and not old.manifest.differences(old.path), "the old one is there with all its bytes"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert found.key == "new" and 8 < number < 59
    record_property("figure", f"killed {moment} each of {number - 1} changes of files: one of both, and whole")


@pytest.mark.fault("C2")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_an_adapter_is_restored_none_is_lost(tmp_path: Path, moment: str) -> None:
    for number in range(1, 20):
        run = Run(tmp_path / str(number))
        run.path.mkdir()
        train_again(run, "old", "old weights")
        train_again(run, "new", "new weights")
        (kept,) = run.kept()
        code = killed_at(number, moment, lambda run=run, kept=kept: run.restore(kept))  # type: ignore[misc]
        present = run.find("train[dpo]")
        there = {kept.key for kept in run.kept() if kept.stored} | ({present.key} if present else set())
        assert there == {"old", "new"}
        if code == 0:
            break
    assert run.find("train[dpo]").key == "old" and 2 < number < 19  # type: ignore[union-attr]
