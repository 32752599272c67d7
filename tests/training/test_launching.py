"""A training in several processes: what the recipe says of them, what is refused, how they are started and end.

Those that train for real are in test_training.py and, killed at random moments, in tests/soak.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import until
from training_case import DPO, Case, recipe_text

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.pipeline import launched
from hubkit.pipeline.launch_failure import failure_of
from hubkit.publishing.recipe_record import recipe_record
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import CheckContext, Scope
from hubkit.training import shared
from hubkit.training.contract import Settings
from hubkit.training.launching.launch import Launching, global_batch
from hubkit_stages import dpo, evaluate, stopping

FSDP = "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n"
DEEPSPEED = "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 2}\n"


def settings(folder: Path, launch: str = "", args: str = DPO, quantization: str = "none") -> Settings:
    recipe = parse_recipe(recipe_text(dpo=args, quantization=quantization) + launch)
    return Settings.of(recipe, Scope(folder, training="dpo"))


def batch_of(rows: int) -> str:
    return DPO.replace("batch_size: 4", f"batch_size: {rows}")


# --- the recipe


def test_processes_count_for_the_key_as_the_batch_that_they_make_together(tmp_path: Path) -> None:
    one = settings(tmp_path).counted()
    assert settings(tmp_path, "launch: {processes: 2}\n", batch_of(2)).counted() == one
    assert settings(tmp_path, "launch: {processes: 4, machines: 2, command: srun}\n", batch_of(1)).counted() == one
    assert settings(tmp_path, "launch: {processes: 1}\n").counted() == one
    assert settings(tmp_path, "launch: {processes: 2}\n").counted() != one
    stated = DPO.replace("batch_size: 4", "batch_size: auto")
    assert settings(tmp_path, "launch: {processes: 2}\n", stated).counted() == settings(tmp_path, "", stated).counted()


def test_of_a_config_file_counts_what_can_change_the_weights(tmp_path: Path) -> None:
    def counted(text: str) -> Any:
        (tmp_path / "a.yaml").write_text(text)
        return settings(tmp_path, "launch: {config: a.yaml}\n", batch_of(2)).counted()

    plain = "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: 'no'\n"
    assert counted(plain) == settings(tmp_path).counted()
    assert counted(plain + "main_process_port: 29501\nmachine_rank: 0\ngpu_ids: 0,1\n") == settings(tmp_path).counted()
    assert counted(plain.replace("'no'", "bf16"))["launch"] == {"mixed_precision": "bf16"}
    assert counted(FSDP)["launch"]["distributed_type"] == "FSDP"


def test_a_stage_has_its_own_launch_or_that_of_the_recipe(tmp_path: Path) -> None:
    text = recipe_text() + "launch: {processes: 4}\n"
    recipe = parse_recipe(text.replace("data: repair,", "data: repair, launch: {processes: 1},"))
    assert recipe.launch_of("dpo") == recipe.launch and recipe.launch is not None
    assert Launching.of(recipe.launch_of("sft"), tmp_path) is None, "one process is not launched"
    found = Launching.of(recipe.launch, tmp_path)
    assert found is not None and found.in_words() == "4 processes"
    assert global_batch({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, None, found) == 24
    assert global_batch({"per_device_train_batch_size": "auto"}, 32, found) == 32


def test_the_manifest_of_a_release_says_in_how_many_processes_it_was_trained(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FSDP)
    recipe = parse_recipe(recipe_text() + "launch: {config: a.yaml}\n")
    record = recipe_record(recipe, Scope(tmp_path, variant="main"))["stages"]["dpo"]
    digest = record["launch"].pop("config")
    assert record["launch"] == {"processes": 2, "machines": 1, "kind": "FSDP"} and len(digest) == 64
    alone = recipe_record(parse_recipe(recipe_text()), Scope(tmp_path, variant="main"))["stages"]["dpo"]
    assert "launch" not in alone, "the manifest of an older recipe stays the same"


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ("{}", "launch: write `processes`, or a `config` that has `num_processes`"),
        ("{processes: 3, machines: 2}", "launch: 3 processes cannot be spread evenly over 2 machines"),
        ("{proceses: 3}", "launch.proceses: unknown key; did you mean 'processes'?"),
    ],
)
def test_a_launch_that_says_nothing_is_a_mistake_of_the_recipe(launch: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_recipe(recipe_text() + f"launch: {launch}\n")
    assert said in raised.value.message


# --- what is refused before anything starts


def findings(tmp_path: Path, launch: str, config: str = "", **recipe: str) -> list[Finding]:
    (tmp_path / "a.yaml").write_text(config)
    loaded = parse_recipe(recipe_text(**recipe) + f"launch: {launch}\n")
    ctx = Case(tmp_path).context(loaded, "train[dpo]")
    return list(dpo.check(CheckContext(ctx.settings, ctx.target)))


@pytest.mark.parametrize(
    ("launch", "config", "code", "said"),
    [
        ("{config: b.yaml}", "", 2, "there is no file 'b.yaml' beside the recipe"),
        ("{config: a.yaml}", "- 1\n", 2, "a.yaml is not a config file of accelerate: it is no mapping of keys"),
        ("{config: a.yaml}", "distributed_type: NO\n", 2, "a.yaml has no num_processes"),
        ("{config: a.yaml, processes: 2}", "distributed_type: XLA\n", 2, "a.yaml has distributed_type XLA, and hubkit"),
        ("{config: a.yaml, processes: 2}", "fsdp: 1\n", 2, "accelerate knows no fsdp"),
        ("{processes: 2, command: srun}", "", 2, "`command` is for several machines"),
        ("{config: a.yaml}", FSDP.replace("version: 2", "version: 1"), 2, "with FSDP 1 the base and the adapter would"),
        ("{config: a.yaml}", FSDP, 1, "accelerate runs FSDP on GPUs, and this machine has none"),
        ("{config: a.yaml}", DEEPSPEED, 1, "a.yaml asks for DeepSpeed, which is not installed"),
        ("{config: a.yaml}", DEEPSPEED.replace("2}", "3}"), 2, "a base in NF4 cannot be split by DeepSpeed's ZeRO 3"),
        ("{processes: 3}", "", 2, "8 rows of a step cannot be shared evenly by 3 processes"),
        ("{processes: 4, machines: 2}", "", 1, "several machines need a `command` that starts a program on each"),
        ("{processes: 4, machines: 2, command: no-such x}", "", 1, "there is no program 'no-such' here"),
    ],
)
def test_what_cannot_be_launched_is_refused_with_a_sentence(
    launch: str, config: str, code: int, said: str, tmp_path: Path
) -> None:
    args = DPO.replace("batch_size: 4", "batch_size: auto")
    found = [
        item for item in findings(tmp_path, launch, config, dpo=args) if f"stages.dpo.launch: {said}" in item.message
    ]
    assert [item.exit_code for item in found] == [code], found
    assert found[0].hint


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place=0: "NVIDIA X")
    assert findings(tmp_path, "{processes: 2}", quantization="none") == []
    (found,) = findings(tmp_path, "{processes: 4}", quantization="none")
    assert "this machine has 2 GPUs for 4 processes" in found.message and found.exit_code == 1


def test_a_release_that_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched.refuse_by_hand()
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as raised:
        launched.refuse_by_hand()
    assert "hubkit was started 2 times" in raised.value.message
    assert "launch: {processes: 2}" in str(raised.value.hint)


# --- how one of the processes begins


class Meeting(Exception):
    """The process waits for the others, for so many seconds."""


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two."""

    def meet(timeout: timedelta | None = None, **_: Any) -> None:
        raise Meeting(timeout.total_seconds() if timeout else None)

    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "HUBKIT_LAUNCHER"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which joining sets: put back afterwards
    monkeypatch.setattr("accelerate.PartialState", meet)


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(("more", "seconds"), [("", 1800), (", ddp_timeout: 60", 60)])
def test_a_process_of_a_training_waits_as_long_as_trl_says(more: str, seconds: int, tmp_path: Path) -> None:
    """Torch's own 10 minutes are too short for what the main process does alone, and TRL comes too late to say so."""
    ctx = Case(tmp_path).context(parse_recipe(recipe_text(dpo=DPO + more)), "train[dpo]")
    with pytest.raises(Meeting, match=rf"^{seconds}\.0$"):
        shared.prepare(ctx)


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("stage", [stopping, evaluate])
def test_a_process_of_a_measurement_waits_hours_for_the_others(stage: Any) -> None:
    with pytest.raises(Meeting, match=r"^21600\.0$"):
        stage.run(None)


def test_the_main_process_alone_looks_whether_a_training_was_ended(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes the file once the probe was changed: another that looks at the same time would find it gone."""
    ctx = Case(tmp_path).context(parse_recipe(recipe_text()), "train[dpo]")
    stopped = ctx.scratch / "stopped.json"
    write_json(stopped, {"probe": {"stop_below": 0.9}, "message": "Ended."})
    with pytest.raises(Meeting):
        shared.prepare(ctx)
    assert stopped.is_file()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(Meeting):
        shared.prepare(ctx)
    assert not stopped.exists()


# --- how the processes are started, followed and ended; these train nothing


class Launch:
    """A launch whose processes are those of ``fake_rank``."""

    def __init__(self, folder: Path, mode: str, launching: Launching) -> None:
        self.folder, self.launching, self.reported = folder, launching, []  # type: ignore[var-annotated]
        job = "train[dpo]"
        self.request = {"run": str(folder), "job": job, "log": str(folder / "train[dpo].log"), "mode": mode}
        self.work = folder / "work" / job / "launch"

    def run(self) -> None:
        launched.run(self.launching, self.request, lambda figure, share: self.reported.append((figure, share)))

    def pids(self) -> list[int]:
        """Of all the processes, once each has said its own."""
        files = [self.work / f"pid-{number}" for number in range(self.launching.count)]
        return [int(file.read_text()) for file in files] if all(file.is_file() for file in files) else []


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(launched, "_RANK", "fake_rank")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))


def test_what_a_stage_refuses_in_one_process_is_said_as_it_says_it(tmp_path: Path) -> None:
    launch = Launch(tmp_path, "refuse", Launching(2))
    with pytest.raises(RefusedError) as raised:
        launch.run()
    assert launch.reported == [("2 here", 0.5)], "the main process alone is heard"
    assert (tmp_path / "train[dpo].1.log").read_text() == "line of 1\n"
    assert (raised.value.message, raised.value.hint) == ("The loss is nan.", "Lower it.")


@pytest.mark.soak
def test_two_machines_meet_and_one_that_dies_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler is a shell that starts a task for each machine, on this one."""
    scheduler = tmp_path / "scheduler"
    scheduler.write_text(
        '#!/bin/sh\nSLURM_NODEID=1 "$@" & other=$!\nSLURM_NODEID=0 "$@"; code=$?; wait $other || code=1; exit $code\n'
    )
    scheduler.chmod(0o755)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    launch = Launch(tmp_path, "raise", Launching(2, machines=2, command=str(scheduler)))
    with pytest.raises(HubkitError) as raised:
        launch.run()
    assert launch.reported == [("2 here", 0.5)]
    assert raised.value.message.startswith("Process 1 of train[dpo] (0 to 1) on h failed: RuntimeError: no memory.")


@pytest.mark.parametrize(
    "victim", ["process", *(pytest.param(each, marks=pytest.mark.soak) for each in ("launcher", "worker"))]
)
def test_whoever_is_killed_all_of_it_ends(victim: str, tmp_path: Path) -> None:
    code = f"""
    import sys
    from pathlib import Path
    from hubkit.core.errors import HubkitError
    from hubkit.pipeline import launched
    from hubkit.training.launching.launch import Launching
    launched._RANK = "fake_rank"
    request = {{"run": {str(tmp_path)!r}, "job": "train[dpo]", "log": {str(tmp_path / "log")!r}, "mode": "stay"}}
    try:
        launched.run(Launching(2), request, lambda figure, share: None)
    except HubkitError as error:
        print(error.message)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    launch = Launch(tmp_path, "stay", Launching(2))
    pids = until(launch.pids, 60)
    processes = [psutil.Process(pid) for pid in pids]
    launcher = processes[0].parent()
    assert launcher is not None and launcher.parent() == psutil.Process(worker.pid)
    os.kill({"process": pids[1], "launcher": launcher.pid, "worker": worker.pid}[victim], signal.SIGKILL)
    said = worker.communicate(timeout=60)[0]
    gone, alive = psutil.wait_procs([*processes, launcher], timeout=10)
    assert not alive and len(gone) == 3
    if victim == "process":
        said = said.removeprefix("not an event\n")
        assert said.startswith(f"Process 1 of train[dpo] (0 to 1) on {os.uname().nodename} was ended by signal 9.")
        assert "ran out of memory. Its last lines:\n  line of 1" in said
    elif victim == "launcher":
        assert said.endswith("The launcher of train[dpo] ended by signal 9.\n")


GLOO = "train[dpo] failed: RuntimeError: [gloo/x.cc:81] Timed out waiting 1800000ms for recv operation."
LEFT = "train[dpo] failed: RuntimeError: [gloo/x.cc:81] Connection closed by peer [127.0.0.1]:4711"
STORE = "train[dpo] failed: DistStoreError: wait timeout after 15000ms, keys: /default_pg/0//cpu//0/1"
HUB = "train[dpo] failed: ReadTimeout: The read operation timed out"
AWAY = "train[dpo] failed: ConnectionResetError: Connection reset by peer"
NCCL = "Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE) ran for 1800025 milliseconds"


HANGS = "Process {} of train[dpo] (0 to {}) gave no answer: the others waited for it until"


@pytest.mark.parametrize(
    ("raised", "ended", "said"),
    [
        ({0: GLOO}, {0: (1, 0)}, HANGS.format(1, 1)),
        ({1: GLOO}, {1: (1, 0)}, HANGS.format(0, 1)),
        ({1: GLOO}, {1: (1, 0), 0: (-9, 30)}, HANGS.format(0, 1)),  # stopped: it does not hear that it shall end
        ({}, {0: (-6, 0)}, HANGS.format(1, 1)),
        ({0: GLOO, 2: GLOO}, {0: (1, 0), 2: (1, 0)}, "One of the processes 1, 3 of train[dpo] (0 to 3) gave no answer"),
        ({0: GLOO, 2: GLOO}, {0: (1, 0), 2: (1, 0), 3: (-9, 30)}, HANGS.format(3, 3)),
        ({0: GLOO, 1: "OSError: no"}, {0: (1, 0), 1: (1, 0)}, "Process 0 of train[dpo] (0 to 1) on h failed: Runtime"),
        ({0: "OSError: no"}, {0: (1, 0), 1: (-9, 30)}, "Process 0 of train[dpo] (0 to 1) on h failed: OSError: no"),
        ({0: GLOO}, {0: (1, 0), 1: (-9, 0)}, "Process 1 of train[dpo] (0 to 1) on h was ended by signal 9"),
        ({0: STORE}, {0: (1, 0), 1: (-9, 30)}, HANGS.format(1, 1)),
        ({0: HUB}, {0: (1, 0)}, "Process 0 of train[dpo] (0 to 1) on h failed: ReadTimeout"),
        ({0: AWAY}, {0: (1, 0), 1: (-15, 0)}, "Process 0 of train[dpo] (0 to 1) on h failed: ConnectionResetError"),
        ({0: LEFT}, {0: (1, 0), 1: (-15, 0)}, "Process 1 of train[dpo] (0 to 1) on h was ended by signal 15."),
        ({0: "OSError: no"}, {0: (1, 0), 1: (-15, 0)}, "Process 0 of train[dpo] (0 to 1) on h failed: OSError: no"),
    ],
)
def test_the_process_is_named_that_hangs_or_died_and_not_the_one_that_noticed_it(
    raised: dict[int, str], ended: dict[int, tuple[int, int]], said: str, tmp_path: Path
) -> None:
    """Those that waited are the ones that fail, and 30 seconds later the launcher kills the one that is to blame."""
    request = {"job": "train[dpo]", "log": str(tmp_path / "log")}
    for number, message in raised.items():
        facts = {"number": number, "message": message, "hint": None, "exit_code": 1, "known": False}
        write_json(tmp_path / f"failed-{number}.json", {**facts, "host": "h", "time": float(number)})
    ends = [{"number": number, "code": code, "time": time} for number, (code, time) in ended.items()]
    write_json(tmp_path / "machine-0.json", {"host": "h", "ends": ends})
    (tmp_path / "log").write_text(f"{NCCL}\nW1129 14:01:29.59 8271 torch/distributed/elastic/api.py:1] Sending\n")
    error = failure_of(tmp_path, request, 4 if 2 in raised else 2, 1)
    assert error.message.startswith(said), error.message
    assert ("`ddp_timeout` of the stage's args" in error.message) == ("gave no answer" in said)
    assert "Sending" not in error.message, "what the launcher says of the end is not what the process said last"


def test_a_config_file_of_the_user_is_taken_with_the_processes_of_the_recipe(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "ds.json").write_text("{}")
    config = "distributed_type: DEEPSPEED\nnum_processes: 9\nmachine_rank: 3\n"
    (tmp_path / "a.yaml").write_text(config + "deepspeed_config: {deepspeed_config_file: ds.json}\n")
    launching = settings(tmp_path, "launch: {processes: 2, config: a.yaml}\n").launch
    assert launching is not None
    arguments = list(launched._arguments(launching, tmp_path))
    written = yaml.safe_load(Path(arguments[1]).read_text())
    assert written["deepspeed_config"] == {"deepspeed_config_file": str(tmp_path / "ds.json")}
    assert (written["num_processes"], written["distributed_type"]) == (2, "DEEPSPEED") and "machine_rank" not in written
    assert shlex.join(arguments[2:6]) == "--num_processes 2 --num_machines 1"
    assert json.dumps(launching.counted(), sort_keys=True).count("sha256") == 0
