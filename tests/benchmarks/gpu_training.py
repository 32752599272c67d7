"""DPO of a 7B model in NF4 on one GPU, hubkit's stage beside stock TRL in one run of at most ten minutes.

    python tests/benchmarks/gpu_training.py                 # on a GPU: Mistral 7B, random weights, built in memory
    python tests/benchmarks/gpu_training.py --small         # on a CPU: the same with a model of 3 million parameters

Nothing is downloaded. The pairs are random tokens with the lengths of Intel/orca_dpo_pairs (lognormal, 932 tokens a
pair on average). Each way trains all of the pairs once from the same weights, in optimizer steps of the same size:

- stock: TRL's DPOTrainer with its own defaults, batches of 4 pairs, gradient checkpointing;
- hubkit: what `per_device_train_batch_size: auto` finds, what the stage dpo saves, checkpointing where it is needed;
- hubkit again: a second run, whose reference log-probabilities are known.

Pairs a second count training alone, without the loading of the model and the trials of batch sizes, which are reported
beside it. The share of the bfloat16 peak counts the arithmetic that the pairs need and nothing that is computed again
or for padding. Aims: 3 times the 1.27 pairs a second of DPOpenHermes-7B, and 1.5 times stock.

Prints a table, and JSON with --json FILE. hubkit's own figures for a GPU do not exist yet: none was at hand.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hubkit.core.memory import peak_memory
from hubkit.models.load import device, device_name, keep_differentiable, training_attention
from hubkit.models.model_size import ModelSize
from hubkit.pipeline.costs.devices import known
from hubkit.training import arguments, probe, shared
from hubkit.training.batch_size import Batches
from hubkit.training.contract import Settings
from hubkit_stages.recipes.tiny import model as tiny

SEED_RATE, TIMES_SEED, TIMES_STOCK = 1.27, 3.0, 1.5
"""Pairs a second of DPOpenHermes-7B (45.7 thousand in ten hours on an H100), and the aims."""
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "7B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32002, "max_position_embeddings": 32768},
    "small": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 8000, "max_position_embeddings": 4096},
}  # fmt: skip
SPREAD, PAIR = 0.55, 932.0
"""Of the logarithm of lengths, and mean tokens of a pair: prompt, chosen and rejected answer together."""


@dataclass
class Way:
    """One training. ``steps`` are seconds of each optimizer step."""

    name: str
    pairs: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    peak: int = 0
    batches: str = ""
    looking: float = 0.0
    steps: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cut_short: bool = False

    @property
    def rate(self) -> float:
        """Pairs a second; of the processor on a CPU, whose clock counts other work, too."""
        seconds = self.seconds if device() == "cuda" else self.processor
        return self.pairs / seconds if seconds else 0.0


def build(shape: Mapping[str, Any], *, quantized: bool) -> Any:
    """A Mistral of ``shape`` with random weights on the device, its linear layers in NF4, one after the other."""
    from transformers import MistralConfig, MistralForCausalLM

    here, gpu = torch.device(device()), device() == "cuda"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    try:
        with here:
            model = MistralForCausalLM(MistralConfig(**shape, pad_token_id=0, sliding_window=None))
    finally:
        torch.set_default_dtype(before)
    if quantized:
        _to_nf4(model, here)
    if attention := training_attention():
        model.set_attn_implementation(attention)
    return model


def _to_nf4(model: Any, here: torch.device) -> None:
    import bitsandbytes as bnb

    dtype = next(model.parameters()).dtype
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, torch.nn.Linear) or name.endswith("lm_head"):
            continue
        into = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
        )
        packed = bnb.nn.Params4bit(
            layer.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        into.weight = packed.to(here)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, into)
        del layer
    model.is_loaded_in_4bit = True
    keep_differentiable(model)
    for weight in model.parameters():
        weight.requires_grad_(False)
    gc.collect()


def pairs(count: int, words: int, longest: int) -> Any:
    """``count`` pairs of random tokens with lognormal lengths, cut at ``longest``."""
    from datasets import Dataset

    draw = random.Random(7)

    def ids(mean: float) -> list[int]:
        length = max(4, round(mean / 1.163 * draw.lognormvariate(0, SPREAD)))  # 1.163: mean of the lognormal
        return [draw.randrange(10, words) for _ in range(min(length, longest // 2))]

    rows = []
    for _ in range(count):
        rows.append({"prompt_ids": ids(PAIR * 0.4), "chosen_ids": ids(PAIR * 0.3), "rejected_ids": ids(PAIR * 0.3)})
    return Dataset.from_list(rows)


def clock(way: Way, limit: float) -> Any:
    """A callback that notes the seconds of each step, and ends a training that takes longer than ``limit``."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = last = 0.0

        def _now(self) -> float:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return time.perf_counter()

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.began = self.last = self._now()
            way.processor = -time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            now = self._now()
            way.steps.append(now - self.last)
            way.seconds, self.last = now - self.began, now
            if way.seconds > limit and state.global_step < state.max_steps:
                control.should_training_stop = way.cut_short = True

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            way.processor += time.process_time()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if "loss" in (logs or {}):
                way.losses.append(float(logs["loss"]))

    return Clock()


@dataclass
class Bench:
    """The model and the pairs that all the ways share."""

    model: Any
    rows: Any
    batch: int
    longest: int
    folder: Path
    limit: float

    def lora(self) -> Any:
        from peft import LoraConfig

        r = 32 if device() == "cuda" else 8
        return LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=r, target_modules="all-linear")

    def common(self) -> dict[str, Any]:
        args = {"max_length": self.longest, "num_train_epochs": 1, "learning_rate": 5e-6, "beta": 0.1}
        optimizer = "paged_adamw_8bit" if device() == "cuda" else "adamw_torch"
        return args | {"logging_steps": 1, "optim": optimizer, "save_strategy": "no"}

    def stock(self) -> Way:
        """TRL's own trainer with its own defaults; on a CPU without what it cannot do there."""
        from trl import DPOConfig

        from hubkit.training.tokenized import dpo_trainer

        given = {**self.common(), "output_dir": str(self.folder / "stock"), "report_to": "none", "disable_tqdm": True}
        given |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": self.batch // 4, "seed": 0}
        if device() == "cpu":
            given |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        args = DPOConfig(**given)
        way = Way("stock TRL", batches=f"batches of 4 x {self.batch // 4} pairs")
        way.batches += " with gradient checkpointing" if args.gradient_checkpointing else ""
        return self._train(dpo_trainer(), args, way)  # TRL's, given tokens in place of text

    def hubkit(self, name: str, store: Any) -> Way:
        """The stage dpo: its arguments, its trainer, its batches."""
        scratch = self.folder / "hubkit"
        settings = Settings(
            name="dpo", uses="dpo", continues=None, quantization="nf4", lora={}, seed=0, batch_size=self.batch,
            args={**self.common(), "per_device_train_batch_size": "auto"},
        )  # fmt: skip
        args = arguments.build(settings, "dpo", scratch / "checkpoints")
        return self._train(self._saving(store, scratch), args, Way(name), settings, scratch)

    def _saving(self, store: Any, scratch: Path) -> type[Any]:
        from hubkit.training.pairs.trainer import saving_trainer

        return saving_trainer(store, scratch, lambda words, share: print(f"  {words}", file=sys.stderr))

    def _train(
        self, kind: type[Any], args: Any, way: Way, settings: Settings | None = None, scratch: Path | None = None
    ) -> Way:
        print(f"{way.name} …", file=sys.stderr)
        _forget_peak()
        torch.manual_seed(0)
        trainer = kind(
            model=self.model, args=args, train_dataset=self.rows, processing_class=tiny.make_tokenizer(),
            peft_config=self.lora(),
        )  # fmt: skip
        if settings is not None and scratch is not None:
            shared.keep_precise(trainer.model)
            began = time.perf_counter()
            cut: Batches = probe.settle(settings, trainer, scratch, lambda words, share: None)
            way.looking, way.batches = time.perf_counter() - began, f"{cut.in_words} ({cut.chosen_by})"
            _forget_peak()
        trainer.add_callback(clock(way, self.limit))
        trainer.train()
        way.pairs = min(len(self.rows), len(way.steps) * self.batch)
        way.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()
        self.model = trainer.model.unload()
        trainer.optimizer = trainer.lr_scheduler = None
        del trainer
        gc.collect()
        return way


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def needed_flops(size: ModelSize, rows: Any, *, reference: bool) -> float:
    """Of all the pairs without padding: the prompt once, both answers; forward, backward through the frozen weights,
    and the reference's forward pass where it is not known."""
    tokens = sum(len(row[name]) for row in rows for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    length = tokens / len(rows) * 0.7
    return size.forward(tokens, length) * (3 if reference else 2)


def main() -> None:
    """Build, train each way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a model of 3 million parameters, for a CPU")
    parser.add_argument("--rows", type=int, default=0, help="pairs; 192 on a GPU and 64 with --small when absent")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most that all of it may take")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    asked = parser.parse_args()
    if device() == "cpu" and not asked.small:
        sys.exit("There is no GPU here: a 7B model would take hours. Try it with --small.")
    began = time.perf_counter()
    name, batch = ("small", 16) if asked.small else ("7B", 32)
    longest = 1024 if asked.small else 2048
    model = build(SHAPES[name], quantized=True)
    built = time.perf_counter() - began
    size = ModelSize.of(probe.facts_of(model.config.to_json_string(use_diff=False).encode()))
    rows = pairs(asked.rows or (64 if asked.small else 192), SHAPES[name]["vocab_size"], longest)
    with tempfile.TemporaryDirectory(prefix="hubkit-gpu-") as folder:
        limit = (asked.minutes * 60 - built) / 3.5
        bench = Bench(model, rows, batch, longest, Path(folder), limit)
        from hubkit.training.pairs.store import Store

        ways = [bench.stock()]
        for title in ("hubkit", "hubkit, reference known"):
            store = Store(Path(folder) / "reference", {"benchmark": name})
            ways.append(bench.hubkit(title, store))
            store.flush()
    report(ways, size, rows, built, asked.json)


def report(ways: list[Way], size: ModelSize, rows: Any, built: float, file: Path | None) -> None:
    """Print the table; the aims are checked on a GPU alone."""
    card = known(device_name())
    stock = ways[0]
    print(f"DPO of {size.parameters / 1e9:.3g} B parameters in NF4 on {device_name()}, PyTorch {torch.__version__}")
    print(f"{len(rows)} pairs; the model was built in {built:.0f} s\n")
    print("| way | pairs/s | x stock | seconds | of the processor | peak memory | share of the bf16 peak | batches |")
    print("|---|---|---|---|---|---|---|---|")
    figures = []
    for place, way in enumerate(ways):
        part = way.pairs / len(rows)
        flops = needed_flops(size, rows, reference=place < 2) * part
        share = flops / way.seconds / card.flops if card and way.seconds else None
        shown = f"{share:.1%}" if share is not None else "unknown"
        more = ", stopped early" if way.cut_short else ""
        print(
            f"| {way.name} | {way.rate:.2f} | {way.rate / stock.rate:.2f} | {way.seconds:.1f}{more} "
            f"| {way.processor:.1f} | {way.peak / 1e9:.1f} GB | {shown} | {way.batches}; found in {way.looking:.1f} s |"
        )
        figures.append({**vars(way), "rate": way.rate, "share_of_peak": share})
    apart = max((abs(a - b) for a, b in zip(stock.losses, ways[1].losses, strict=False)), default=0.0)
    print(
        f"\nFirst losses: {', '.join(f'{way.losses[0]:.4f}' for way in ways if way.losses)};"
        f" the largest difference of a step's loss from stock is {apart:.4f} (rows come in another order)."
    )
    if device() == "cuda":
        met = ways[1].rate >= TIMES_SEED * SEED_RATE, ways[1].rate >= TIMES_STOCK * stock.rate
        print(f"Aims: {TIMES_SEED:g} x the seed's {SEED_RATE} pairs/s: {met[0]}; {TIMES_STOCK:g} x stock: {met[1]}.")
    if file is not None:
        file.write_text(json.dumps({"device": device_name(), "built": built, "ways": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
