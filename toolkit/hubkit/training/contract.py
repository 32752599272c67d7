"""What every training stage reads: its part of the recipe, the base, its rows, and the adapter that it continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hubkit.models.base import PinnedBase
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.models import Probe, Recipe
from hubkit.recipe.stage import Context, Scope
from hubkit.recipe.values import TrainOn
from hubkit.training.adapter import Form, TrainedAdapter
from hubkit.training.counted import counted_adapter, counted_args, counted_base
from hubkit.training.data.prepared import TrainingRows
from hubkit.training.launching.launch import Launching, counted_together

PROBED_TOKENS = 256
"""The token limit of an answer of the probe, where neither the recipe nor its gate on the stop rate has a lower one."""


@dataclass(frozen=True)
class Settings:
    """The training stage ``name`` of the recipe. ``lora`` are PEFT's own keys, ``args`` those of the TRL trainer.

    ``lora`` is "none" where all the weights are trained.
    """

    name: str
    uses: str
    continues: str | None
    quantization: Literal["nf4", "none"]
    lora: Mapping[str, Any] | Literal["none"]
    args: Mapping[str, Any]
    seed: int
    train_on: TrainOn = "last"
    speedups: Literal["auto", "none"] = "auto"
    continued_form: Form | None = None
    """What the stage that this one continues leaves; None where it continues none."""
    batch_size: int | None = None
    checkpoint_minutes: float | None = None
    launch: Launching | None = None
    """How the processes of the stage are started; None for one, in which nothing is launched."""
    probe: Probe | None = None
    """The stop rate while it trains; None where it is not measured. Its token limit is set."""
    probe_asked_for: bool = False
    """Whether the recipe has settings of its own for the probe, which is on by default."""
    project: str = ""
    """What trackers call the release: the name of its repo."""
    links: bool = True
    """Whether the page of a tracker is linked: not where the card names another one, or none."""

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        if scope.training is None:
            raise ValueError("a training stage belongs in a step that is made for each training stage")
        name, training = scope.training, recipe.stages[scope.training]
        return cls(
            name=name,
            uses=training.uses or name,
            continues=training.continues,
            quantization=training.quantization,
            lora=training.lora,
            args=training.args,
            seed=recipe.seed,
            train_on=training.train_on,
            speedups=training.speedups,
            continued_form=_left_by(recipe, training.continues),
            batch_size=training.batch_size,
            checkpoint_minutes=training.checkpoint_minutes,
            launch=Launching.of(recipe.launch_of(name), scope.recipe_folder),
            probe=_probe(recipe, training.probe),
            probe_asked_for=training.probe not in (Probe(), "none"),
            project=recipe.repo.partition("/")[2],
            links=recipe.card.tracking is None,
        )

    @property
    def lora_keys(self) -> Mapping[str, Any]:
        """The keys of peft.LoraConfig; empty where all the weights are trained."""
        return {} if isinstance(self.lora, str) else self.lora

    @property
    def trains_all_weights(self) -> bool:
        """Whether the whole model is trained, and no adapter."""
        return isinstance(self.lora, str)

    @property
    def begins_adapter(self) -> bool:
        """Whether a new adapter is trained: on the base, or on weights that an earlier stage left."""
        return not self.trains_all_weights and self.continued_form != "adapter"

    @property
    def form(self) -> Form:
        """What the stage leaves. An adapter on weights is merged into them, as no repo of a Hub is its base."""
        return "weights" if self.trains_all_weights or self.continued_form == "weights" else "adapter"

    def counted(self) -> dict[str, Any]:
        """What of it counts for the key: all that can change the weights.

        The args of a stage of another distribution are its own, so they all count. Several processes count as what
        they do to the batch, so that a training may go on with other devices (:mod:`hubkit.training.launching.launch`).
        """
        ours = self.uses in {"dpo", "sft"}
        args = counted_args(counted_together(self.args, self.batch_size, self.launch)) if ours else self.args
        return {
            "uses": self.uses,
            "quantization": self.quantization,
            "lora": self.lora,
            "args": args,
            "seed": self.seed,
            **({} if self.train_on == "last" else {"train_on": self.train_on}),
            **({} if self.batch_size is None else {"batch_size": self.batch_size}),
            **self._launch_counted(ours),
            **({} if self.speedups == "auto" else {"speedups": self.speedups}),
        }

    def _launch_counted(self, ours: bool) -> dict[str, Any]:
        if self.launch is None:
            return {}
        counted = self.launch.counted() | ({} if ours else {"processes": self.launch.count})
        return {"launch": counted} if counted else {}


def _left_by(recipe: Recipe, stage: str | None) -> Form | None:
    return recipe.form(stage) if stage is not None and stage in recipe.stages else None


def _probe(recipe: Recipe, probe: Probe | str) -> Probe | None:
    if isinstance(probe, str):
        return None
    gate = recipe.gates.stop_rate
    limit = probe.max_new_tokens or min(PROBED_TOKENS, gate.max_new_tokens if gate else PROBED_TOKENS)
    return probe.model_copy(update={"max_new_tokens": limit})


@dataclass(frozen=True)
class Inputs:
    """``rows`` are those of the stage's own dataset alone; ``previous`` is the adapter that it continues, if any."""

    base: PinnedBase
    rows: TrainingRows
    previous: TrainedAdapter | None

    COUNTED: ClassVar[Mapping[str, Callable[[StoredArtifact], Any]]] = {
        "base": counted_base,
        "previous": counted_adapter,
    }
    """What of a field counts for the key, where it is not the whole artifact."""


TrainingContext = Context[Settings, Inputs]
"""What a training stage is given."""
