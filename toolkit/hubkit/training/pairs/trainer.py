"""TRL's DPOTrainer, which computes less: what a stage builds in place of it.

    trainer = trainer_class(ctx, args, model, tokenizer)(model=..., args=..., ...)

Its losses, metrics, checkpoints and arguments are TRL's. It decides at its start which way to go, once for a training:
``folder`` keeps the order of the rows over a kill.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from hubkit.core.files import read_json, write_json
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import counted
from hubkit.recipe.stage import Context, Report
from hubkit.training.contract import Inputs, Settings
from hubkit.training.pairs import order, proof
from hubkit.training.pairs.forward import Rearranged, Tokens
from hubkit.training.pairs.reference import Reference, is_fixed, key_of
from hubkit.training.pairs.store import FOLDER, Store
from hubkit.training.tokenized import dpo_trainer

Order = Literal["random", "by length"]
_FILE = "pairs.json"


def trainer_class(ctx: Context[Settings, Inputs], args: Any, model: Any, tokenizer: Any) -> type[Any]:
    """The trainer of a DPO stage for ``model`` with TRL's ``args``: with ``speedups: none`` TRL's own."""
    if ctx.settings.speedups == "none":
        return dpo_trainer()
    key = key_of(ctx.inputs, ctx.settings, args, model, tokenizer)
    store = Store(hubkit_home() / FOLDER, key)
    if store.damaged:
        ctx.report(f"{counted(store.damaged, 'damaged file')} of reference log-probabilities removed", None)
    return saving_trainer(store, ctx.scratch, ctx.report)


def saving_trainer(store: Store | None, folder: Path, report: Report) -> type[Any]:
    """The class. ``store`` keeps the reference's numbers (None: they are not kept), ``report`` says what is chosen."""

    class Saving(dpo_trainer()):  # type: ignore[misc]
        precompute_ref_logps: bool

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            models = [proof.inner(model) for model in (self.model, self.ref_model) if model is not None]
            self.rearranged = Rearranged(models)
            self.decision: proof.Decision | None = None
            self.reference = Reference(store) if store is not None and is_fixed(self) else None
            self._lengths: list[int] | None = None
            self.order: Order | None = None
            self._group = 0

        # --- which way

        def longest_row(self) -> int:
            """Tokens of the longest row, of both datasets; the lengths of those that are trained are known then."""
            self._lengths = self._lengths or order.lengths_of(self.train_dataset, self.args.max_length)
            evaluated = order.lengths_of(self.eval_dataset, self.args.max_length) if self.eval_dataset else []
            return max([*self._lengths, *evaluated], default=0)

        def decide_way(self) -> None:
            """Decide on the first rows of the dataset, once, before anything is tried: a resumed run sees the same."""
            if self.decision is None and not self._in_parts():
                rows = [self.train_dataset[place] for place in range(min(proof.ROWS, len(self.train_dataset)))]
                self._decide(self._prepare_inputs(self.data_collator(rows)))

        def _decide(self, inputs: dict[str, Any]) -> None:
            training = self.model.training
            self.model.train()  # TRL has switched dropout off; in eval mode 4-bit layers may be repacked
            try:
                self.decision = proof.decide(self, self.rearranged, inputs, self.longest_row())
            finally:
                self.model.train(training)
            self.rearranged.take(self.decision.way)
            report(words(self.decision), None)

        # --- the order of the rows

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if self.order is None:
                self.order, self._group = order_of(self, folder)
            if self.order == "random":
                return super()._get_train_sampler(train_dataset)
            return order.ByLength(self._lengths or [], self._group, self.args.seed, self._epoch)

        def _in_parts(self) -> bool:
            """Whether no process has the whole model: then it can compute nothing before the first step."""
            return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

        def _epoch(self) -> int:
            return int(self.state.epoch + 1e-6) if self.state.epoch else 0

        # --- the work

        def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
            trial = self.model.training and not self.is_in_train  # of a batch size: it leaves no trace
            if self.decision is None and not trial:
                self._decide(inputs)
            before = self.precompute_ref_logps
            if self.reference is not None and not trial:
                inputs = {**inputs, **self.reference.of(self, inputs)}
                self.precompute_ref_logps = True
            try:
                return super().compute_loss(model, inputs, *given, **named)
            finally:
                self.precompute_ref_logps = before

        def _save_checkpoint(self, *given: Any, **named: Any) -> None:
            if self.reference is not None:
                self.reference.flush()  # a resumed run must read the numbers that this one went on with
            super()._save_checkpoint(*given, **named)

        def train(self, *given: Any, **named: Any) -> Any:
            self.rearranged.tokens = Tokens()
            try:
                found = super().train(*given, **named)
            finally:
                self.rearranged.take("plain")  # what is saved names the attention that it had
            if self.reference is not None:
                self.reference.flush()
            return found

        def pairs_report(self) -> dict[str, Any]:
            return report_of(self)

    Saving.__name__ = "DPOTrainer"
    return Saving


def order_of(trainer: Any, folder: Path) -> tuple[Order, int]:
    """By length where that saves padding, in groups of so many rows; decided by the main process.

    Both are kept in ``folder`` for a resumed run, which goes on in the same order with smaller batches or more
    processes.
    """
    group = trainer.args.per_device_train_batch_size * trainer.accelerator.num_processes
    if trainer.args.train_sampling_strategy != "random":
        return "random", group  # what the recipe asks for
    trainer.longest_row()
    trainer.decide_way()
    pads = trainer.decision is not None and trainer.decision.way in {"head", "plain"}
    found = {"order": "by length" if pads else "random", "group": group}
    if trainer.accelerator.is_main_process:
        known = folder / _FILE
        found |= read_json(known) if known.is_file() else {}
        write_json(known, found)
    found = agreed(trainer, found)
    return cast(Order, found["order"]), cast(int, found["group"])


def agreed(trainer: Any, found: Any) -> Any:
    """What the main process found, in all of them."""
    if trainer.accelerator.num_processes == 1:
        return found
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([found], from_process=0)[0]


def summed(trainer: Any, counts: list[int]) -> list[int]:
    """Each of ``counts`` summed over all processes."""
    if trainer.accelerator.num_processes == 1:
        return counts
    from accelerate.utils import gather_object

    everyone = gather_object([counts])
    return [sum(column) for column in zip(*everyone, strict=True)]


def report_of(trainer: Any) -> dict[str, Any]:
    """What a trainer of :func:`saving_trainer` saved, for the stage's artifact. All the processes call it.

    ``way`` is one of :data:`hubkit.training.pairs.forward.Way` and ``reason`` why it is not a faster one. ``tokens``
    are those of the training's rows (``real``), of the batches as TRL pads them, and those that were computed;
    ``reference`` counts pairs whose reference numbers were computed, and those that were known. Both are of all
    the processes together.
    """
    tokens, known, decision = trainer.rearranged.tokens, trainer.reference, trainer.decision
    counts = [tokens.real, tokens.padded, tokens.computed]
    counts += [0, 0] if known is None else [known.computed, known.cached]
    real, padded, computed, new, read = summed(trainer, counts)
    return {
        "way": decision.way if decision else "plain",
        "reason": decision.reason if decision else None,
        "order": trainer.order or "random",
        "tokens": {"real": real, "padded": padded, "computed": computed},
        "reference": None if known is None else {"computed": new, "cached": read},
    }


def words(decision: proof.Decision) -> str:
    """The ``decision`` in a sentence, for progress and logs."""
    if decision.way in {"varlen", "shared"}:
        return "each prompt is computed once, without padding: equal to TRL on the first rows"
    saved = "only answers pass the output layer" if decision.way == "head" else "rows are padded as TRL does"
    return f"prompts are not shared: {decision.reason}; {saved}"
