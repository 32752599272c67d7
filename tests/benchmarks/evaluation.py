"""What measuring costs beside the libraries alone. Run by `make bench`; writes docs/bench-evaluation.md.

Two questions, on the tiny base. Does the step `evaluate` take longer than lm-eval called directly, with the same model
and the same questions? And how much sooner is the stop rate known than by asking transformers' text-generation pipeline
one prompt after the other, for the same tokens? Both ways take turns, in one process in which everything is imported
and has run once; medians are compared. Processor time is given too: the machine may have other work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import platform
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from kept import sample  # noqa: E402

from hubkit.core.files import write_json  # noqa: E402
from hubkit.core.target import Target  # noqa: E402
from hubkit.evals.harness import no_inventory  # noqa: E402
from hubkit.models.base import PinnedBase  # noqa: E402
from hubkit.models.chat.eos import EndOfTurn, find  # noqa: E402
from hubkit.models.chat.stop_rate import measure  # noqa: E402
from hubkit.models.merging.merged import MergedWeights  # noqa: E402
from hubkit.pipeline.runs import Run  # noqa: E402
from hubkit.recipe.loading import load_recipe  # noqa: E402
from hubkit.recipe.stage import Context, Scope  # noqa: E402
from hubkit_stages import evaluate  # noqa: E402
from hubkit_stages.recipes import tiny  # noqa: E402
from hubkit_stages.recipes.tiny import world  # noqa: E402
from hubkit_stages.recipes.tiny.model import make_base  # noqa: E402

OVERHEAD, SPEED = 0.03, 5.0
"""The aims: the share that the step may add, and how many times as fast the stop rate must be known."""


@dataclass
class Timed:
    """Seconds of each turn, by the clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, work: Callable[[], Any]) -> Any:
        """Do ``work`` once and note what it took."""
        wall, cpu = time.perf_counter(), _processor()
        made = work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(_processor() - cpu)
        return made


def _processor() -> float:
    """Seconds of the processor that this process and its finished children have had."""
    had = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in had)


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Timed], dict[str, Any]]:
    """Each of ``ways`` once unmeasured, then ``repeats`` times in turns, each round in another order."""
    last = {name: work() for name, work in ways.items()}
    timed = {name: Timed() for name in ways}
    order, draw = list(ways), random.Random(0)
    for _ in range(repeats):
        draw.shuffle(order)
        for name in order:
            last[name] = timed[name].run(ways[name])
    return timed, last


def overhead(base: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """The step on the tiny recipe's benchmark, beside lm-eval called directly; the numbers must be equal."""
    recipe = load_recipe(tiny.RECIPE)
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"limit": None})})
    given = folder / "inputs"
    write_json(given / "base" / "base.json", sample("base.json", repo="hubkit/tiny-hermes", commit="a" * 40))
    (given / "base" / "chat_template.jinja").write_text((base / "chat_template.jinja").read_text())
    shutil.copytree(base, given / "merge" / "model")
    write_json(given / "merge" / "merge.json", sample("merge.json", dtype="bfloat16"))
    inputs = evaluate.Inputs(PinnedBase.load(given / "base"), MergedWeights.load(given / "merge"))
    settings = evaluate.Settings.of(recipe, Scope(tiny.RECIPE.parent, variant="main"))
    source, tasks = str(given / "merge" / "model"), tiny.RECIPE.parent / (recipe.evaluate.include or "")
    places = iter(range(10_000))

    def step() -> Any:
        place = folder / f"turn-{next(places)}"
        os.environ["HUBKIT_HOME"] = str(place)  # nothing was measured before
        run = Run(place / "run")
        run.begin("evaluate[main]", "key")
        ctx = Context(
            settings=settings,
            inputs=inputs,
            target=Target("http://127.0.0.1:9", place / "hf"),
            out=run.out("evaluate[main]"),
            scratch=run.scratch("evaluate[main]"),
        )
        found = evaluate.run(ctx).artifact.suites["tiny_facts"].tasks["tiny_facts"]
        assert found is not None
        return {name: metric.value for name, metric in found.metrics.items()}

    def bare() -> Any:
        with no_inventory():
            return direct()

    def direct() -> Any:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        here = Path.cwd()
        os.chdir(tasks)  # where the task file looks for its data
        try:
            raw = simple_evaluate(
                model=HFLM(pretrained=source, dtype="bfloat16", device="cpu", batch_size=recipe.evaluate.batch_size),
                tasks=["tiny_facts"],
                task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
                apply_chat_template=True,
                fewshot_as_multiturn=True,
                log_samples=False,
            )
        finally:
            os.chdir(here)
        values = raw["results"]["tiny_facts"]
        return {name.partition(",")[0]: values[name] for name in values if name in {"acc,none", "acc_norm,none"}}

    timed, last = interleaved({"step": step, "direct": direct, "bare": bare}, repeats)
    if not last["step"] == last["direct"] == last["bare"]:
        raise SystemExit(f"the step and lm-eval do not agree: {last}")
    return {"timed": timed, "values": last["step"], "questions": len((tasks / "tiny_facts.jsonl").open().readlines())}


def soon(count: int) -> list[dict[str, Any]]:
    """Questions from the set of which the tiny release holds its prompts out, a seeded draw: answered tersely."""
    rows = random.Random(1).sample(world.openhermes_rows(), count)
    return [{"messages": [{"role": "user", "content": str(row["instruction"])}]} for row in rows]


def mixed(count: int) -> list[dict[str, Any]]:
    """Questions on which the base was trained, a seeded draw: some are to be answered in detail, and take long."""
    rows = random.Random(1).sample(list(world.base_rows()), count)
    return [{"messages": row[:-1]} for row in rows]


def stop_rate(base: Path, asked: Sequence[dict[str, Any]], repeats: int, *, stops: bool) -> dict[str, Any]:
    """``measure`` beside the pipeline asked one prompt at a time; the new ids must be equal, every one.

    Without ``stops`` the token that ends an answer is one that the model never says, so that all run to the limit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = load_recipe(tiny.RECIPE).gates.stop_rate
    end = find(tokenizer) if stops else EndOfTurn("<|pad|>", tokenizer.pad_token_id)
    limit, batch = settings.max_new_tokens, settings.batch_size
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")

    def batched() -> list[tuple[int, ...]]:
        found = measure(model, tokenizer, asked, end, max_new_tokens=limit, batch_size=batch)
        return [answer.ids for answer in found.answers]

    def one_by_one() -> list[tuple[int, ...]]:
        found = []
        for row in asked:
            (made,) = pipe(
                row["messages"], return_tensors=True, do_sample=False, max_new_tokens=limit, eos_token_id=end.id,
                pad_token_id=end.id,
            )  # fmt: skip
            there = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]
            found.append(tuple(made["generated_token_ids"][len(there) :]))
        return found

    timed, last = interleaved({"measure": batched, "pipeline": one_by_one}, repeats)
    if last["measure"] != last["pipeline"]:
        raise SystemExit("measure and the pipeline do not give the same tokens")
    return {
        "timed": timed,
        "prompts": len(asked),
        "limit": limit,
        "batch": batch,
        "tokens": sum(map(len, last["measure"])),
        "stopped": sum(end.id in ids for ids in last["measure"]),
    }


def main() -> None:
    """Measure, print and write docs/bench-evaluation.md; ends with 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--base", type=Path, help="a tiny base made before; made anew when left out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # as a worker does for a model as small as this
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
        folder = Path(name)
        base = chosen.base or folder / "base"
        if not chosen.base:
            make_base(base)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            step = overhead(base, folder, chosen.repeats)
            count, turns = chosen.prompts, max(3, chosen.repeats // 4)
            rates = [
                stop_rate(base, soon(count), turns, stops=True),
                stop_rate(base, mixed(count), turns, stops=True),
                stop_rate(base, soon(count // 2), turns, stops=False),
            ]
    text, reached = report(step, rates)
    (ROOT / "docs" / "bench-evaluation.md").write_text(text, encoding="utf-8")
    print(text)
    if not reached:
        raise SystemExit(1)


def _row(name: str, timed: Timed) -> str:
    wall, cpu = timed.wall, statistics.median(timed.cpu)
    return f"| {name} | {statistics.median(wall):.2f} s | {min(wall):.2f} s | {max(wall):.2f} s | {cpu:.2f} s |"


def _ratio(one: Timed, other: Timed) -> tuple[float, float]:
    """Medians of ``one`` over those of ``other``: by the clock, and in processor time."""
    return (
        statistics.median(one.wall) / statistics.median(other.wall),
        statistics.median(one.cpu) / statistics.median(other.cpu),
    )


def report(step: dict[str, Any], rates: list[dict[str, Any]]) -> tuple[str, bool]:
    """The figures as Markdown, and whether the aims are reached."""
    timed = step["timed"]
    wall, cpu = _ratio(timed["step"], timed["direct"])
    own = _ratio(timed["step"], timed["bare"])[1] - 1
    heads = ["| way | median | least | most | processor, median |", "|---|---:|---:|---:|---:|"]
    reached = cpu - 1 < OVERHEAD  # the clock counts what else the machine does
    lines = [
        "# What measuring costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}, on {os.cpu_count()} cores ({platform.machine()}, "
        f"CPU only, one thread, load {os.getloadavg()[0]:.1f} at the end). Both ways of a table took turns, after a "
        "first round that does not count.",
        "",
        "## The step `evaluate` beside lm-eval called directly",
        "",
        f"The tiny base in bfloat16, the {step['questions']} questions of the tiny recipe, loading the model included, "
        f"{len(timed['step'].wall)} turns each; nothing was kept from before. Both gave the same numbers: "
        + ", ".join(f"{name} {value:.4f}" for name, value in step["values"].items())
        + ".",
        "",
        *heads,
        _row("the step `evaluate`", timed["step"]),
        _row("`lm_eval.simple_evaluate`", timed["direct"]),
        _row("the same, without its list of the machine", timed["bare"]),
        "",
        f"The step takes {cpu - 1:+.1%} of the processor's time (aim: less than {OVERHEAD:.0%}), and {wall - 1:+.1%} "
        "by the clock, which counts what else the machine does. lm-eval lists the machine's packages and devices after "
        f"each call, and the step does not; beside lm-eval without that list the step takes {own:+.1%} of the "
        "processor's time: finding and copying the task files, the key, the typed results, whole files on disk.",
        "",
        "## The stop rate beside asking one prompt at a time",
        "",
        f"`hubkit.models.chat.stop_rate.measure` in batches of {rates[0]['batch']}, and transformers' "
        f"text-generation pipeline with the same model in float32, greedy, at most {rates[0]['limit']} new tokens, "
        f"{len(rates[0]['timed']['measure'].wall)} turns each. Every answer had the same token ids both ways.",
    ]
    for rate in rates:
        times, _ = _ratio(rate["timed"]["pipeline"], rate["timed"]["measure"])
        reached = reached and times >= SPEED
        lines += [
            "",
            f"{rate['prompts']} prompts, of which {rate['stopped']} stopped; {rate['tokens']:,} new tokens:",
            "",
            *heads,
            _row("`end_of_turn.measure`", rate["timed"]["measure"]),
            _row("the pipeline, one by one", rate["timed"]["pipeline"]),
            "",
            f"{times:.1f} times as fast (aim: {SPEED:.0f}).",
        ]
    return "\n".join(lines) + "\n", reached


if __name__ == "__main__":
    main()
