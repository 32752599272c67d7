"""What a DPO training costs beside stock TRL. Run by `make bench`; writes docs/bench-training.md.

The same randomly initialized model, the same rows with lengths like those of orca pairs, the same steps. All the ways
take turns, in one process in which everything ran once; medians are compared, in processor time, since the machine may
have other work. The loss of every step must be TRL's where the order of the rows is TRL's.
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
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hubkit.training.pairs import order
from hubkit.training.pairs.forward import Way
from hubkit.training.pairs.proof import Decision
from hubkit.training.pairs.store import Store
from hubkit.training.pairs.trainer import report_of, saving_trainer
from hubkit.training.tokenized import dpo_trainer

ROOT = Path(__file__).parents[2]
FIRST, SECOND = 1.4, 1.8
"""The aims: how many times as fast as stock TRL the first run and the second one must be."""
VOCABULARY, BATCH, LONGEST = 8192, 4, 512
EQUAL = 1e-3
"""The largest difference of a loss that is rounding."""


def rows_of(count: int, scale: float) -> list[dict[str, list[int]]]:
    """Pairs whose lengths are spread as those of orca pairs are, at ``scale`` times about half of their size."""
    draw = random.Random(1)

    def ids(median: int, spread: float, most: int) -> list[int]:
        drawn = min(most, draw.lognormvariate(0, spread) * median)
        length = max(4, round(scale * drawn))
        return [draw.randrange(10, VOCABULARY) for _ in range(length)]

    return [
        {"prompt_ids": ids(70, 0.8, 300), "chosen_ids": ids(55, 1.0, 200), "rejected_ids": ids(55, 1.0, 200)}
        for _ in range(count)
    ]


def new_model() -> Any:
    """A randomly initialized Llama of about 20 million parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 6}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **shape))


def tokenizer() -> Any:
    """A tokenizer, which TRL wants of whoever has tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<e>": 0, "<p>": 1}, unk_token="<e>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<e>", pad_token="<p>")


@dataclass
class Turns:
    """What the turns of one way took, and what they came to."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The median, of the processor."""
        return statistics.median(self.cpu)


class Ways:
    """The ways to train ``rows``, each a trainer that is made anew."""

    def __init__(self, rows: list[dict[str, list[int]]], folder: Path) -> None:
        from datasets import Dataset

        self.dataset, self.folder, self.tokenizer = Dataset.from_list(rows), folder, tokenizer()
        self.kept = folder / "reference"

    def trainer(self, kind: type[Any]) -> Any:
        """A trainer of class ``kind`` on a new model, for one epoch."""
        from peft import LoraConfig
        from trl import DPOConfig

        given: dict[str, Any] = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        given |= {"max_length": LONGEST, "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "seed": 1}
        given |= {"logging_steps": 1, "save_strategy": "no", "learning_rate": 1e-4, "disable_tqdm": True}
        return kind(
            model=new_model(),
            args=DPOConfig(output_dir=str(self.folder / "out"), **given),
            train_dataset=self.dataset,
            processing_class=self.tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"),
        )

    def ours(self, *, warm: bool, way: Way | None = None) -> Any:
        """Our trainer: with or without what an earlier run kept; ``way`` instead of the one that it would choose."""
        if not warm:
            shutil.rmtree(self.kept, ignore_errors=True)
        (self.folder / "pairs.json").unlink(missing_ok=True)
        store = Store(self.kept, {"base": "the benchmark's"}) if warm or way is None else None
        kind = saving_trainer(store, self.folder, lambda figure, share: None)
        made = self.trainer(kind)
        if way is not None:
            made.decision, made.order = Decision(way), "random"
            made.rearranged.take(way)
        return made

    def by_length(self) -> Any:
        """Stock TRL, with our order of the rows."""

        class Sorted(dpo_trainer()):  # type: ignore[misc]
            def _get_train_sampler(self, train_dataset: Any = None) -> Any:
                return order.ByLength(order.lengths_of(self.train_dataset, LONGEST), BATCH, 1, lambda: 0)

        return self.trainer(Sorted)


def measure(ways: dict[str, Callable[[], Any]], repeats: int, minutes: float) -> dict[str, Turns]:
    """A step of two of ``ways`` unmeasured, then each ``repeats`` times in turns; no new turn after ``minutes``."""
    from transformers import PrinterCallback

    turns, end = {name: Turns() for name in ways}, time.monotonic() + 60 * minutes
    for turn in range(repeats + 1):
        if turn > 1 and time.monotonic() > end:
            break
        for name, make in ways.items():
            if not turn and name not in {"stock", "first"}:
                continue
            trainer = make()
            if not turn:
                trainer.args.max_steps = 1
            began, had = time.perf_counter(), _processor()
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            if turn:
                print(turn, name, f"{_processor() - had:.2f} s", flush=True)
                turns[name].cpu.append(_processor() - had)
                turns[name].wall.append(time.perf_counter() - began)
            turns[name].losses = [point["loss"] for point in trainer.state.log_history if "loss" in point]
            turns[name].report = report_of(trainer) if hasattr(trainer, "rearranged") else {}
    return turns


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


NAMES = {
    "stock": "stock TRL",
    "sorted": "stock TRL, batches by length",
    "head": "only answers pass the output layer",
    "cached": "reference log-probabilities known (a second run)",
    "shared": "each prompt once, no padding",
    "first": "**all, first run**",
    "second": "**all, second run**",
}


def report(turns: dict[str, Turns], rows: int, parameters: int, padded_by_length: float) -> tuple[str, bool]:
    """The figures as Markdown, and whether the aims are reached."""
    stock = turns["stock"].seconds
    tokens = turns["first"].report["tokens"]
    apart = {
        name: max(abs(one - other) for one, other in zip(turn.losses, turns["stock"].losses, strict=True))
        for name, turn in turns.items()
        if name not in {"stock", "sorted"}
    }
    first, second = stock / turns["first"].seconds, stock / turns["second"].seconds
    share = {name: tokens[name] / tokens["real"] for name in ("padded", "computed")}
    lines = [
        "# What a DPO training costs beside stock TRL",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}, on {os.cpu_count()} cores ({platform.machine()}, "
        f"CPU only, one thread, load {os.getloadavg()[0]:.1f} at the end). A randomly initialized Llama of "
        f"{parameters / 1e6:.0f} million parameters in float32 with a LoRA adapter, {rows} pairs with lengths spread "
        f"as those of orca pairs, batches of {BATCH}, one epoch. All ways took turns "
        f"({len(turns['stock'].cpu)} each, after a step that does not count).",
        "",
        "| way | processor, median | least | most | times as fast as stock TRL |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, turn in turns.items():
        lines.append(
            f"| {NAMES[name]} | {turn.seconds:.1f} s | {min(turn.cpu):.1f} s | {max(turn.cpu):.1f} s | "
            f"{stock / turn.seconds:.2f} |"
        )
    lines += [
        "",
        f"Aims: {FIRST} in the first run and {SECOND} in the second; measured {first:.2f} and {second:.2f}. The first "
        "run includes the proof that the log-probabilities are TRL's on the first rows.",
        "",
        f"Of {tokens['real']:,} real tokens TRL's batches make {share['padded']:.2f} times as many by padding, and "
        f"batches by length {padded_by_length:.2f}; with each prompt once and no padding "
        f"{share['computed']:.2f} times as many are computed.",
        "",
        "Where the order of the rows is TRL's, the loss of each step is TRL's within "
        f"{max(apart.values()):.1e} (at most {EQUAL} counts as rounding): all but the second line. Without padding the "
        "order costs nothing, so the rows come in TRL's own order; by length they come where rows must be padded.",
        "",
        "`speedups: none` in a DPO stage trains as stock TRL does.",
    ]
    return "\n".join(lines) + "\n", first >= FIRST and second >= SECOND and max(apart.values()) <= EQUAL


def padded(rows: list[dict[str, list[int]]], places: list[int]) -> float:
    """How many times the real tokens of ``rows`` TRL's batches have in the order of ``places``."""
    sides = [
        [min(LONGEST, len(row["prompt_ids"]) + len(row[name])) for name in ("chosen_ids", "rejected_ids")]
        for row in rows
    ]
    batches = [[sides[place] for place in places[start : start + BATCH]] for start in range(0, len(places), BATCH)]
    computed = sum(2 * len(batch) * max(max(side) for side in batch) for batch in batches)
    return computed / sum(map(sum, sides))


def main() -> None:
    """Measure, print and write docs/bench-training.md; ends with 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--scale", type=float, default=1.0, help="how long the rows are")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench-training.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = rows_of(chosen.rows, chosen.scale)
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
        made = Ways(rows, Path(name))
        ways: dict[str, Callable[[], Any]] = {
            "stock": lambda: made.trainer(dpo_trainer()),
            "sorted": made.by_length,
            "head": lambda: made.ours(warm=False, way="head"),
            "shared": lambda: made.ours(warm=False, way="shared"),
            "first": lambda: made.ours(warm=False),
            "cached": lambda: made.ours(warm=True, way="plain"),
            "second": lambda: made.ours(warm=True),
        }
        with contextlib.redirect_stderr(io.StringIO()):
            turns = measure(ways, chosen.repeats, chosen.minutes)
    turns = {name: turns[name] for name in NAMES}
    parameters = sum(weight.numel() for weight in new_model().parameters())
    by_length = order.by_length(order.lengths_of(made.dataset, LONGEST), BATCH, 1)
    text, reached = report(turns, len(rows), parameters, padded(rows, by_length))
    chosen.out.write_text(text, encoding="utf-8")
    print(text)
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
