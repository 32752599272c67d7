"""`hubkit runs watch`: the curves of a training on terminals of several widths, while it runs and afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json
from kept import sample
from screens import recorded

from hubkit.cli.plots import Plot
from hubkit.core.files import Manifest, write_json
from hubkit.core.processes.named import is_gone, this_process
from hubkit.pipeline import watched
from hubkit.pipeline.runs import Run


def curves(rates: tuple[int, ...] = (16, 16, 12, 4), **more: Any) -> dict[str, Any]:
    points = [
        {
            "step": step, "seconds": step * 18.0, "loss": 7 / step, "rewards/margins": step / 50, "grad_norm": 1.25,
            "rewards/accuracies": 0.9, "learning_rate": 5e-5, "tokens_per_second": 8123.0, "epoch": 0.1, "own": 3.0,
        }
        for step in range(10, 130, 10)
    ]  # fmt: skip
    probes = [
        {"step": 2 + 30 * place, "stopped": stopped, "prompts": 16, "rate": stopped / 16, "seconds": 4.0}
        for place, stopped in enumerate(rates)
    ]
    trackers = [{"name": "wandb", "url": "https://wandb.ai/me/tiny/runs/abc"}, {"name": "tensorboard"}]
    found = {"format": 1, "stage": "dpo", "method": "dpo", "steps": 200, "off": None}
    return {**found, "trackers": trackers, "points": points, "probes": probes, **more}


NAMES_ITSELF = "import json; print(json.dumps(me()), flush=True); input()"


def log(run: Path, event: str, **facts: Any) -> None:
    with (run / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"event": event, **facts}) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose first training is under way."""
    folder = tmp_path / "runs" / "tiny-1"
    about = {"format": 2, "id": "tiny-1", "repo": "me/tiny", "hub": "embedded", "made": "2026-11-29T10:00:00.000"}
    write_json(folder / "run.json", about)
    log(folder, "begin")
    log(folder, "start", step="train[dpo]")
    write_json(folder / "work" / "train[dpo]" / "scratch" / "curves.json", curves())
    return folder


@pytest.mark.parametrize(("columns", "beside"), [(60, 1), (80, 2), (120, 3)])
def test_the_curves_fit_the_terminal(columns: int, beside: int, run: Path) -> None:
    seen = recorded([HUBKIT, "runs", "watch", "--once"], environment(run.parent.parent), columns=columns)
    assert seen.code == 0 and not seen.problems()
    lines = seen.text.splitlines()
    assert lines[0].startswith("train[dpo] DPO  step 120 of 200  training")
    titles = ["loss  0.0583", "stop rate (probe)  25.0 %", "reward margin  2.4", "reward accuracy  90.0 %"]
    heads = [line for line in lines if any(title in line for title in titles)]
    assert len(heads) == -(-4 // beside)
    assert "  100 % ┤" in seen.text and "⠉" in seen.text, "drawn in braille"
    words = " ".join(seen.text.split())
    assert "gradient norm 1.25 learning rate 5e-05 8,123 tokens/s" in words
    assert "last probe: 4 of 16 answers ended (step 92) probes took 0.7 % of the time" in words
    assert "wandb: https://wandb.ai/me/tiny/runs/abc" in words and "tensorboard" not in words


def test_it_follows_the_training_until_the_run_ends(run: Path) -> None:
    drawn: list[bytes] = []

    def go_on(written: bytes, process: Any, end: int) -> None:
        if b"25.0 %" in written and not drawn:
            drawn.append(written)
            write_json(run / "work" / "train[dpo]" / "scratch" / "curves.json", curves((16, 16, 12, 1)))
            log(run, "stopped")

    seen = recorded([HUBKIT, "runs", "watch", "tiny-1"], environment(run.parent.parent), columns=80, when=go_on)
    assert seen.code == 0 and drawn
    assert "stop rate (probe)  6.3 %" in seen.text and "25.0 %" not in seen.text, "the last picture stays"
    assert "interrupted" in seen.text.splitlines()[0]


def test_a_run_that_was_killed_is_no_longer_followed(run: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"from hubkit.core.processes.named import this_process as me\n{NAMES_ITSELF}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    log(run, "begin", process=json.loads(process.stdout.readline()))
    drawn: list[bytes] = []

    def kill(written: bytes, watching: Any, end: int) -> None:
        if b"tokens/s" in written and not drawn:
            drawn.append(written)
            process.kill()
            process.wait()

    seen = recorded([HUBKIT, "runs", "watch"], environment(run.parent.parent), columns=80, when=kill)
    assert seen.code == 1 and drawn and b"interrupted" not in drawn[0]
    assert "interrupted" in seen.text.splitlines()[0], "the last picture stays"
    words = " ".join(seen.text.split())
    assert "Error: The process of the run tiny-1 is gone" in words and "`hubkit release` resumes the run" in words
    assert hubkit_json("runs", "watch", home=run.parent.parent)[0]["state"] == "interrupted"


def test_a_run_that_ends_while_its_process_is_looked_for_was_not_killed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(run, "begin", process={"pid": 1})

    def ends(process: Any) -> bool:
        log(run, "released")
        return process == {"pid": 1}

    monkeypatch.setattr(watched, "is_gone", ends)
    assert not watched.is_abandoned(Run(run)) and watched.is_over(Run(run))


def test_a_process_is_gone_only_where_that_is_certain() -> None:
    me = this_process()
    assert is_gone(me) is False
    assert is_gone({**me, "started": me["started"] - 60}) is True, "its number is another process's now"
    for unknown in ({**me, "host": "elsewhere", "pid": 1}, None, {}, {"host": me["host"]}, {**me, "pid": "1"}):
        assert is_gone(unknown) is False


def test_ctrl_c_ends_the_watching(run: Path) -> None:
    sent: list[bytes] = []

    def interrupt(written: bytes, process: Any, end: int) -> None:
        if b"tokens/s" in written and not sent:
            sent.append(written)
            process.send_signal(signal.SIGINT)

    seen = recorded([HUBKIT, "runs", "watch"], environment(run.parent.parent), columns=80, when=interrupt)
    assert seen.code == 0 and "Error" not in seen.text


def test_a_finished_training_is_drawn_from_its_artifact_also_one_from_before_there_were_curves(run: Path) -> None:
    home = run.parent.parent
    for stage, kept in (("dpo", curves()), ("sft", None)):
        folder = run / "artifacts" / f"train[{stage}]"
        told = sample("training.json", stage=stage, method=stage, curve=[{"step": 5, "loss": 1.5}], steps=40)
        write_json(folder / "training.json", told)
        if kept:
            write_json(folder / "curves.json", kept)
        manifest = {"step": f"train[{stage}]", "key": "k", "summary": {}, "seconds": 1.0}
        write_json(folder / "manifest.json", {**manifest, **Manifest.of(folder).to_json()})
    (run / "work" / "train[dpo]" / "scratch" / "curves.json").unlink()
    log(run, "start", step="train[sft]")
    log(run, "released")
    shown = hubkit_json("runs", "watch", "tiny-1", home=home)
    assert [(item["step"], item["state"]) for item in shown] == [("train[dpo]", "finished"), ("train[sft]", "finished")]
    assert shown[0]["probes"][-1]["rate"] == 0.25 and shown[1]["points"] == [{"step": 5, "loss": 1.5}]
    everything = hubkit("runs", "watch", "tiny-1", "--all", home=home).stdout
    assert "own  3" in everything and "loss  1.5" in everything and "learning rate  5e-05" in everything


def test_the_probe_after_the_last_step_counts_as_time_of_the_training(run: Path) -> None:
    path, told = run / "work" / "train[dpo]" / "scratch" / "curves.json", curves((16,), steps=120)
    last = {**told["probes"][0], "step": 120, "seconds": 240.0}
    write_json(path, {**told, "probes": [last]})
    assert "(step 120)  probes took 10.0 % of the time" in hubkit("runs", "watch", home=run.parent.parent).stdout


def test_why_there_is_no_probe_is_printed_and_nothing_trained_is_no_error(run: Path) -> None:
    home = run.parent.parent
    write_json(run / "work" / "train[dpo]" / "scratch" / "curves.json", curves((), off="it failed: ValueError: no"))
    assert "no stop-rate probe: it failed: ValueError: no" in hubkit("runs", "watch", home=home).stdout
    (run / "work" / "train[dpo]" / "scratch" / "curves.json").unlink()
    assert "tiny-1 has trained nothing yet." in hubkit("runs", "watch", home=home).stdout
    assert hubkit("runs", "watch", "tiny-2", home=home).returncode == 2


def test_a_plot_is_exactly_as_wide_as_it_may_be_and_shows_where_the_training_is() -> None:
    falling = Plot("loss", [(0, 1.0), (50, 0.5)], until=100)
    lines = falling.lines(40, 4, braille=False)
    assert {len(line) for line in lines} == {40} and len(lines) == 5
    columns = [line.rstrip().rfind("*") for line in lines[1:]]
    assert columns == sorted(columns) and columns[-1] < 26, "the right half is still to come"
    assert lines[1].startswith("      1 |*") and lines[4].startswith("    0.5 |")
    flat = Plot("stop rate", [(5, 1.0)], until=10, is_share=True).lines(30, 3)
    assert flat[0].startswith("stop rate  100 %") and any(0x2800 < ord(letter) < 0x2900 for letter in flat[1])
    assert "⣿" in Plot("stop rate", [(10, 0.0)], until=10, is_share=True).lines(30, 3)[3], "one point can be seen"
    assert Plot("even", [(1, 2.0), (2, 2.0)], until=2).lines(30, 3)[1].startswith("    2.2 ┤")
