"""Trainings in two and four processes on a CPU (gloo): the same release as in one, and killed -9 at random moments.

The moments are the machine's; the seed is fixed. A killed training is resumed by the same command, must come to the
adapter of the one that nobody killed, and leaves no process behind.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import training_case
from commands import hubkit, hubkit_json, until
from safetensors.torch import load_file
from soak_figures import record
from tiny_release import has_checkpoint
from training_case import DPO, Case, recipe_text

from hubkit.core.files import read_json
from hubkit_stages.recipes import tiny

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 10
ARGS = DPO.replace("max_steps: 8", "max_steps: 120, save_steps: 10")


def text(processes: int) -> str:
    args = ARGS.replace("batch_size: 4", f"batch_size: {4 // processes}")
    launch = f"launch: {{processes: {processes}}}\n" if processes > 1 else ""
    return recipe_text(dpo=args, quantization="none") + launch


def difference(one: Path, other: Path) -> float:
    """The largest between two adapters, which have the same tensors."""
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case")).prepare()


def fresh(prepared: Case, folder: Path) -> Case:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared.run.artifacts, folder / "run" / "artifacts")
    return Case(folder)


def made(case: Case) -> Path:
    return case.run.artifacts / "train[dpo]"


@pytest.fixture(scope="module")
def alone(prepared: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of one process."""
    case = fresh(prepared, tmp_path_factory.mktemp("alone"))
    case.launch("dpo", text(1))
    return made(case)


class Started:
    """The command that trains, with its processes."""

    def __init__(self, case: Case, processes: int, recipe: str | None = None) -> None:
        train = [str(training_case.__file__), str(case.folder), "dpo", recipe or text(processes), "launch"]
        command = [sys.executable, *train]
        self.said = case.folder.with_suffix(".txt")
        with self.said.open("w") as said:
            self.command = subprocess.Popen(command, stdout=said, stderr=said)
        self.seen: set[psutil.Process] = set()
        self.count = processes

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, main first; none until all are there."""
        found = []
        for process in self._look():
            try:
                if "hubkit.pipeline.rank" in process.cmdline():
                    found.append((int(process.environ()["RANK"]), process))
            except (psutil.Error, KeyError):
                continue
        return [process for _, process in sorted(found, key=lambda item: item[0])] if len(found) == self.count else []

    def running(self) -> int:
        """How many processes the command has started that run now."""
        return len([*self._look()])

    def _look(self) -> Iterator[psutil.Process]:
        try:
            found = psutil.Process(self.command.pid).children(recursive=True)
        except psutil.Error:
            return
        self.seen |= {*found}
        yield from found

    def left(self) -> list[psutil.Process]:
        """What still runs of all that was seen, ten seconds after the command has ended."""
        return psutil.wait_procs([*self.seen], timeout=10)[1]


@dataclass(frozen=True)
class End:
    """What a training came to: how far its adapter is from another one's, and whether it was resumed."""

    apart: float
    resumed: bool

    @classmethod
    def of(cls, case: Case, other: Case) -> End:
        resumed = read_json(made(case) / "training.json")["resumed_from"] is not None
        return cls(difference(made(other), made(case)), resumed)


def undisturbed(case: Case, processes: int) -> float:
    """Train to the end; how many seconds the processes live."""
    started = Started(case, processes)
    until(started.ranks, 120)
    began = time.monotonic()
    assert started.command.wait(300) == 0, started.said.read_text()
    return time.monotonic() - began


def killed(case: Case, processes: int, number: int, after: float) -> bool:
    """Train, and kill process ``number`` ``after`` seconds after all have begun; False when the training was faster."""
    started = Started(case, processes)
    ranks = until(lambda: started.ranks() or started.command.poll() is not None, 120)
    try:
        code = started.command.wait(after)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(psutil.NoSuchProcess):
            ranks[number].kill()
        code = started.command.wait(60)
        if code != 0:
            assert not started.left(), f"left behind after the kill of process {number}"
            return True
        # The process had trained to its end, and the command was about to end.
    assert code == 0, started.said.read_text()
    return False


@pytest.mark.parametrize("processes", [2, 4])
def test_killed_at_random_moments_the_adapter_is_that_of_an_undisturbed_training(
    processes: int, prepared: Case, alone: Path, tmp_path: Path
) -> None:
    """Killed in its start, load, steps, checkpoints and saves; begun anew each time that it came to its end."""
    moments, began = random.Random(20261129 + processes), time.monotonic()
    quiet, case, ends = fresh(prepared, tmp_path / "quiet"), fresh(prepared, tmp_path / "killed"), list[End]()
    lives, apart = undisturbed(quiet, processes), difference(alone, made(quiet))
    assert apart < 1e-5
    for kill in range(2 * KILLS):
        number = 0 if kill % 2 else moments.randrange(1, processes)
        while not killed(case, processes, number, moments.uniform(0.0, lives)):
            ends.append(End.of(case, quiet))
            fresh(prepared, case.folder)
    case.launch("dpo", text(processes))
    ends.append(End.of(case, quiet))
    largest, resumed = max(end.apart for end in ends), sum(end.resumed for end in ends)
    assert largest < 1e-5 and resumed
    record(
        f"a training in {processes} processes (gloo), killed -9 at random moments",
        f"{KILLS} kills of another process and {KILLS} of the main one in {time.monotonic() - began:.0f} s; "
        f"{len(ends)} trainings came to their end, {resumed} of them resumed; largest difference of an adapter to "
        f"the undisturbed one {largest:.1e}, of that to one process {apart:.1e}; no process left behind",
    )


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_hangs_is_waited_for_until_the_time_limit_and_named(
    number: int, prepared: Case, tmp_path: Path
) -> None:
    """Stopped as by Ctrl-Z, it neither answers nor ends when it is asked to."""
    case = fresh(prepared, tmp_path / "hangs")
    started = Started(case, 2, text(2).replace("max_steps", "ddp_timeout: 15, max_steps"))
    ranks = until(started.ranks, 120)
    until(lambda: has_checkpoint(case.run.scratch("train[dpo]")), 300)
    ranks[number].suspend()
    assert started.command.wait(120) != 0
    assert not started.left()
    assert f"Process {number} of train[dpo] (0 to 1) gave no answer" in started.said.read_text()
    case.launch("dpo", text(2))
    assert read_json(made(case) / "training.json")["resumed_from"]


def test_a_training_begun_in_one_process_goes_on_in_two(prepared: Case, alone: Path, tmp_path: Path) -> None:
    case = fresh(prepared, tmp_path / "moved")
    started = Started(case, 1)
    scratch = case.run.scratch("train[dpo]")
    until(lambda: started.running() and has_checkpoint(scratch), 300)
    started.command.kill()
    started.command.wait()
    assert not started.left()
    case.launch("dpo", text(2))
    told = read_json(made(case) / "training.json")
    assert told["resumed_from"] and told["processes"] == 2
    assert difference(alone, made(case)) < 1e-5


@pytest.mark.parametrize("stage", ["dpo", "sft"])
@pytest.mark.parametrize(("processes", "batch"), [(2, 4), (4, 8), (4, 20)])
def test_the_rows_that_are_left_at_the_end_of_an_epoch_are_divided(
    processes: int, batch: int, stage: str, prepared: Case, tmp_path: Path
) -> None:
    """Of 23 rows three are left, or seven; three are fewer than four processes, so that one of them trains none."""
    case, found = fresh(prepared, tmp_path / "case"), []
    case.leave_rows(23)
    for number in (1, processes):
        args = f"max_steps: 16, per_device_train_batch_size: {batch // number}, max_length: 64, learning_rate: 1e-3"
        written = recipe_text(dpo=args, sft=args, quantization="none")
        if stage == "sft":
            written = written.replace("continues: dpo, ", "lora: {r: 4, lora_alpha: 8, target_modules: all-linear}, ")
        launch = f"launch: {{processes: {number}}}\n" if number > 1 else ""
        case.launch(stage, written + launch)
        found.append(load_file(case.run.artifacts / f"train[{stage}]" / "adapter" / "adapter_model.safetensors"))
        shutil.rmtree(case.run.artifacts / f"train[{stage}]")
    one, several = found
    assert max(float((one[name] - several[name]).abs().max()) for name in one) < 1e-5


def tiny_recipe(folder: Path, processes: int) -> Path:
    """The tiny release with the rows of its steps divided among ``processes``."""
    shutil.copytree(tiny.RECIPE.parent / "tasks", folder / "tasks")
    lines = tiny.RECIPE.read_text()
    for batch in (8, 16):
        given = f"per_device_train_batch_size: {batch // processes}\n"
        lines = lines.replace(f"per_device_train_batch_size: {batch}\n", given)
    launch = f"launch: {{processes: {processes}}}\n" if processes > 1 else ""
    (folder / "hubkit.yaml").write_text(lines + launch)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a release came to, for comparison with another."""

    gates: dict[str, bool]
    stopped: dict[str, dict[str, int]]
    """For each variant and form, how many answers ended."""
    artifacts: Path

    @classmethod
    def of(cls, artifacts: Path) -> Outcome:
        verdicts = read_json(artifacts / "gate" / "gates.json")["variants"]
        forms = {name: read_json(artifacts / f"stopping[{name}]" / "stopping.json")["forms"] for name in verdicts}
        return cls(
            gates={name: verdict["passed"] for name, verdict in verdicts.items()},
            stopped={name: {form: rate["stopped"] for form, rate in found.items()} for name, found in forms.items()},
            artifacts=artifacts,
        )

    def apart(self, other: Outcome) -> dict[str, float]:
        """How far the adapter of each training is from the other's."""
        steps = {name: f"train[{name}]" for name in ("dpo", "sft")}
        return {name: difference(self.artifacts / step, other.artifacts / step) for name, step in steps.items()}


def released(folder: Path, processes: int) -> Outcome:
    """The tiny release by ``processes``."""
    (recipe := folder / f"recipe-{processes}").mkdir()
    home = folder / f"home-{processes}"
    try:
        outcome = hubkit_json("release", str(tiny_recipe(recipe, processes)), home=home)
    finally:
        hubkit("hub", "stop", home=home)
    return Outcome.of(home / "runs" / outcome["run"] / "artifacts")


def test_a_release_in_several_processes_is_that_of_one(tmp_path: Path) -> None:
    one, told = released(tmp_path, 1), []
    for processes in (2, 4):
        several = released(tmp_path, processes)
        assert several.gates == one.gates
        assert several.stopped == one.stopped
        apart = several.apart(one)
        told.append(f"{processes} processes: {', '.join(f'{stage} {value:.1e}' for stage, value in apart.items())}")
        assert apart["dpo"] < 1e-5, told
        # It goes on from adapters that are apart by rounding, which Adam makes larger where a gradient is nearly zero.
        assert apart["sft"] < 1e-4, told
    record(
        "the tiny release in 2 and 4 processes (gloo) and in one",
        f"same gates, same stop rates of each form; largest difference of an adapter to one process with the same "
        f"rows a step: {'; '.join(told)}",
    )


FSDP = """\
distributed_type: FSDP
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_state_dict_type: FULL_STATE_DICT
"""


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_that_fsdp_shards_are_gathered_into_the_same_adapter(
    quantization: str, prepared: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP 2 of PyTorch itself, on CPUs; only accelerate's question for a GPU is answered for it."""
    args = DPO.replace("batch_size: 4", "batch_size: 2")
    plain = fresh(prepared, tmp_path / "plain")
    plain.launch("dpo", recipe_text(dpo=args, quantization=quantization) + "launch: {processes: 2}\n")
    case = fresh(prepared, tmp_path / "sharded")
    (case.folder / "fsdp.yaml").write_text(FSDP)
    monkeypatch.setenv("PYTHONPATH", str(Path(training_case.__file__).parent / "told_of_gpus"))
    case.launch("dpo", recipe_text(dpo=args, quantization=quantization) + "launch: {config: fsdp.yaml}\n")
    apart = difference(made(plain), made(case))
    assert apart < 1e-5
    record(
        f"FSDP 2 in 2 processes (gloo, on a CPU), quantization {quantization}",
        f"adapter gathered and saved once; largest difference to the same training by DDP {apart:.1e}",
    )
