"""The costs of a whole release on several devices, with the assumptions that they rest on and what is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.numbers import count, counted, share, short, size
from hubkit.pipeline.costs import benchmarks, steps, training
from hubkit.pipeline.costs.asking import ask
from hubkit.pipeline.costs.devices import TABLE, Device, others
from hubkit.pipeline.costs.sources import TOKENS, Finder
from hubkit.pipeline.costs.speedups import Speedups
from hubkit.pipeline.costs.steps import Cost, Situation
from hubkit.pipeline.costs.training import TrainingWork
from hubkit.pipeline.release_state import ReleaseState
from hubkit.training.batch_size import what_to_lower
from hubkit.training.launching.launch import Launching

if TYPE_CHECKING:
    from hubkit.hub.client import Hub
    from hubkit.pipeline.jobs import Job


@dataclass(frozen=True)
class Estimate:
    """The cost of every job on every device. ``here`` is the name of this device; None when it was not measured.

    ``costs`` is by job and then by the device's short name; a job that is reused costs nothing. ``kinds`` says which
    jobs do the same work. ``disk`` is the most that is taken at once, ``left`` what stays.
    """

    devices: tuple[Device, ...]
    here: str | None
    costs: Mapping[str, Mapping[str, Cost]]
    kinds: Mapping[str, str]
    reused: frozenset[str]
    assumed: tuple[str, ...]
    missing: tuple[str, ...]
    sized: bool = True
    """Whether the size of the base is known."""
    four_bit: frozenset[str] = frozenset()
    """The training stages that load the base in NF4."""
    full: frozenset[str] = frozenset()
    """The training stages that train all the weights."""
    lower: Mapping[str, str] = field(default_factory=dict)
    """By training stage, the keys of its ``args`` that lower the memory of a step."""

    def seconds(self, device: str) -> float | None:
        """The sum over all jobs whose time is known; None when none is."""
        known = [cost[device].seconds for cost in self.costs.values()]
        found = [seconds for seconds in known if seconds is not None]
        return sum(found) if found else None

    @property
    def complete(self) -> bool:
        """Whether the time of every job is known."""
        return all(cost.seconds is not None for by_device in self.costs.values() for cost in by_device.values())

    @property
    def disk(self) -> int:
        """The most bytes that the release has written at once."""
        kept, most = 0, 0
        for by_device in self.costs.values():
            cost = next(iter(by_device.values()))
            most = max(most, kept + cost.disk + cost.scratch)
            kept += cost.disk
        return most

    @property
    def left(self) -> int:
        """The bytes that stay when the release is done."""
        return sum(next(iter(by_device.values())).disk for by_device in self.costs.values())

    @property
    def upload(self) -> int:
        """The bytes that are sent to the Hub."""
        return sum(next(iter(by_device.values())).upload for by_device in self.costs.values())

    def device(self, short: str) -> Device:
        """The device called ``short``."""
        return next(device for device in self.devices if device.short == short)

    def fits(self, job: str, short: str) -> bool:
        """Whether ``job`` fits into the memory of the device, with batches of mean length."""
        cost = self.costs[job][short]
        return cost.typical is None or cost.typical.total <= self.device(short).memory

    def to_json(self) -> dict[str, Any]:
        """Plain values: devices, sums, assumptions and what is unknown; the steps' costs are :meth:`step_json`."""
        return {
            "this_device": self.here,
            "devices": [device.to_json() for device in self.devices],
            "seconds": {device.short: _rounded(self.seconds(device.short)) for device in self.devices},
            "complete": self.complete,
            "disk": {"most": self.disk, "left": self.left},
            "assumed": list(self.assumed),
        }

    def step_json(self, job: str) -> dict[str, Any]:
        """The cost of ``job`` by device."""
        return {short: steps.to_json(cost) for short, cost in self.costs[job].items()}


def estimate(
    state: ReleaseState,
    home: Path,
    hub: Callable[[], Hub],
    announce: Callable[[str], None] = lambda text: None,
    *,
    here: Device | None = None,
) -> Estimate:
    """The costs of the jobs of ``state``. ``hub`` is asked for sizes that this machine does not have.

    ``here`` is this device; it is measured when it is not given.
    """
    finder = Finder(state, hub)
    config = finder.config()
    measured, model = ask(home, config, finder.loras(), announce)
    sizes, device = finder.find(model), here or measured
    devices = (device, *others(device)) if device else TABLE
    work = benchmarks.work_of(state.recipe.evaluate, state.folder)
    suites = state.recipe.gguf.benchmarks if state.recipe.gguf else ()
    gguf_work = benchmarks.work_of(state.recipe.evaluate.model_copy(update={"suites": suites}), state.folder)
    launched = {name: Launching.of(state.recipe.launch_of(name), state.folder) for name in state.recipe.stages}
    processes = {name: found.count for name, found in launched.items() if found is not None}
    speedups = Speedups.of(config, home)
    situation = Situation.of(
        state.recipe,
        sizes,
        work,
        embedded=state.target.embedded,
        processes=processes,
        speedups=speedups,
        gguf_work=gguf_work,
    )
    costs = {
        job.id: {each.short: _unless_reused(job, state, situation, each) for each in devices} for job in state.jobs
    }
    missing = [*sizes.missing]
    if device is None:
        missing.append("this device: PyTorch is not installed or failed (see `hubkit doctor`)")
    first = devices[0].short
    reasons: dict[str, list[str]] = {}
    for job, by_device in costs.items():
        if (why := by_device[first].why) is not None and sizes.model is not None:
            reasons.setdefault(why, []).append(job)
    missing += [f"the time of {', '.join(jobs)}: {why}" for why, jobs in reasons.items()]
    return Estimate(
        devices,
        device.short if device else None,
        costs,
        {job.id: job.stage_name or job.stage for job in state.jobs},
        frozenset(state.finished),
        tuple(_assumed(situation, devices)),
        tuple(missing),
        sizes.model is not None,
        frozenset(name for name, stage in state.recipe.stages.items() if stage.quantization == "nf4"),
        frozenset(name for name, stage in state.recipe.stages.items() if stage.trains_all_weights),
        {name: what_to_lower(stage.args, stage.batch_size) for name, stage in state.recipe.stages.items()},
    )


def _unless_reused(job: Job, state: ReleaseState, situation: Situation, device: Device) -> Cost:
    return Cost(0.0) if job.id in state.finished else steps.cost(job, situation, device)


def _assumed(it: Situation, devices: tuple[Device, ...]) -> Iterator[str]:
    """The assumptions, a sentence without its period each."""
    yield from it.sizes.notes
    known = {name: rows for name, rows in it.sizes.data.items() if rows.rows is not None}
    guessed = [f"data.{name}" for name, rows in known.items() if rows.basis == "assumed"]
    if guessed and it.sizes.model is not None:
        yield f"{' and '.join(guessed)}: {count(TOKENS)} tokens a sequence, as in real preference data; not counted"
    for name, rows in known.items():
        if rows.basis == "size":
            yield f"data.{name}: about {count(rows.tokens)} tokens a sequence, by the bytes of its rows"
    for name, work in it.trainings.items():
        if work is not None and it.sizes.model is not None:
            yield f"{name}: {_tokens(work)}"
            yield from _reference(name, it, devices[0])
        if work is not None and work.processes > 1:
            devices_in_words = f"on a GPU each, in the full memory of one, {work.processes} times as fast as one"
            yield f"{name}: {work.processes} processes {devices_in_words}; on a CPU they share its cores and memory"
    if it.sizes.model is not None and it.recipe.gates.stop_rate is not None:
        limit = it.recipe.gates.stop_rate.max_new_tokens
        yield f"stop rates: every batch generates {count(limit)} tokens, as one answer that does not stop is enough"
        if it.recipe.gguf is not None:
            answers = f"GGUF: llama.cpp answers on the CPU, with half of {count(limit)} tokens"
            yield f"{answers}; beside a GPU, from memory of {size(round(steps.HOST_BANDWIDTH))}/s"
    rates = [f"{device.short} {share(device.share)} of {_flops(device.flops)}" for device in devices]
    yield f"rates: {', '.join(rates)}"
    tabled = next((device for device in devices if device.source.startswith("peak")), None)
    if tabled is not None:
        yield (
            f"{', '.join(device.short for device in devices if device.source.startswith('peak'))}: {tabled.source}; "
            f"disk {size(tabled.disk)}/s, sha256 {size(tabled.hashing)}/s"
        )
    if not it.embedded:
        yield f"network: {size(devices[0].network)}/s to and from the Hub"


def _reference(name: str, it: Situation, device: Device) -> Iterator[str]:
    """What the reference of a DPO stage costs: its numbers are kept, and the next run on the same pairs reads them."""
    work, trained, speedups = it.trainings[name], it.sizes.trained.get(name), it.recipe.stages[name].speedups
    if work is None or work.method != "dpo" or speedups == "none":
        return
    kind = "cuda" if device.gpu else "cpu"
    if work.known == kind:
        yield f"{name}: the reference's log-probabilities may be known from an earlier run, if the pairs are the same"
    elif trained is not None:
        first = training.seconds(work, it.model, trained, device)
        second = training.seconds(replace(work, known=kind), it.model, trained, device)
        saved = share(1 - second / first)
        yield f"{name}: a second run on the same pairs takes {saved} less: the reference's log-probabilities are kept"


def _tokens(work: TrainingWork) -> str:
    """The tokens of a training, and why they are more or fewer than those of its rows."""
    number = f"{short(work.tokens / 1e6)} M" if work.tokens >= 1e6 else count(float(f"{work.tokens:.2g}"))
    factor, batch = work.longest / work.length, counted(work.batch, "row")
    if work.once:
        return (
            f"{number} tokens: each prompt once, without padding, with lengths as in orca pairs, measured on a CPU "
            f"({short(work.padded / work.tokens)} times as many with `speedups: none`)"
        )
    padded = f", padded to {short(factor)} times those of the rows (batches of {batch} in random order)"
    return f"{number} tokens{padded if factor > 1.05 else ''}"


def _flops(rate: float) -> str:
    """FLOPs a second in words: '989 TFLOP/s', '52 GFLOP/s'."""
    return f"{short(rate / 1e12)} TFLOP/s" if rate >= 1e12 else f"{round(rate / 1e9)} GFLOP/s"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
