"""What a DPO stage saves (`speedups`), as far as it is known before the training: which tokens, and which numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubkit.pipeline.costs.training import TrainingWork
from hubkit.recipe.models import Recipe
from hubkit.training.pairs.proof import config_problem
from hubkit.training.pairs.reference import libraries
from hubkit.training.pairs.store import FOLDER, pairs_kept


@dataclass(frozen=True)
class Speedups:
    """``config`` is that of the base, of its text part; ``store`` the folder with numbers of references."""

    config: Mapping[str, Any] | None = None
    store: Path | None = None

    @classmethod
    def of(cls, config: bytes | None, home: Path) -> Speedups:
        """With the base's ``config.json``, if it is known, and what is kept in ``home``."""
        try:
            found = json.loads(config) if config else None
        except ValueError:
            found = None
        if isinstance(found, dict) and isinstance(found.get("text_config"), dict):
            found = found["text_config"]
        return cls(found if isinstance(found, dict) else None, home / FOLDER)

    def applied(self, work: TrainingWork | None, recipe: Recipe, name: str) -> TrainingWork | None:
        """``work`` of the stage ``name`` with what this base and this machine save of it."""
        stage = recipe.stages[name]
        if work is None or work.method != "dpo" or stage.speedups == "none":
            return work
        shares = work.once and self.config is not None and config_problem(self.config, round(work.most)) is None
        return replace(work, once=shares, known=None if stage.continues else self._known(work, recipe, name))

    def _known(self, work: TrainingWork, recipe: Recipe, name: str) -> str | None:
        """The kind of device for which the reference of as many pairs as the stage has is kept, if one is.

        Whether they are its own pairs, only the training finds out. That of a stage that continues another depends on
        weights that may still have to be trained.
        """
        stage, seen = recipe.stages[name], work.steps * work.batch * work.processes
        needed = min(seen, work.rows) if work.rows is not None else seen
        if self.store is None or not self.store.is_dir():
            return None
        wanted = {
            "reference": None,
            "quantization": stage.quantization,
            "all_weights": stage.trains_all_weights,
            "libraries": libraries(),
        }
        kept = pairs_kept(self.store, recipe.base.repo, wanted)
        return next((device for device, pairs in kept.items() if pairs >= needed), None)
