"""What every training stage reads: its part of the recipe, the base, its rows, and the adapter that it continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hubkit.models.base import PinnedBase
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Scope
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.counted import counted_adapter, counted_args, counted_base
from hubkit.training.data.prepared import TrainingRows


@dataclass(frozen=True)
class Settings:
    """The training stage ``name`` of the recipe. ``lora`` are PEFT's own keys, ``args`` those of the TRL trainer."""

    name: str
    uses: str
    continues: str | None
    quantization: Literal["nf4", "none"]
    lora: Mapping[str, Any]
    args: Mapping[str, Any]
    seed: int

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
        )

    def counted(self) -> dict[str, Any]:
        """What of it counts for the key: all that can change the weights.

        The args of a stage of another distribution are its own, so they all count.
        """
        args = counted_args(self.args) if self.uses in {"dpo", "sft"} else self.args
        return {
            "uses": self.uses,
            "quantization": self.quantization,
            "lora": self.lora,
            "args": args,
            "seed": self.seed,
        }


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
