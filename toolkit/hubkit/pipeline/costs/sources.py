"""Sizes of the base and of the datasets, without reading a weight or a row; each with where it comes from.

The base's ``config.json``: from the cache of this machine, from the package of a recipe, else from the Hub. Rows: from
the last run, from the recipe, from a recipe's package, else from the dataset's card. What is found nowhere is missing,
and is not guessed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json
from hubkit.core.libraries import offered
from hubkit.core.numbers import count
from hubkit.core.target import Target
from hubkit.pipeline.costs.asking import Model
from hubkit.pipeline.costs.datasets import Listed, look_up, rows_of_files
from hubkit.pipeline.costs.formulas import BYTES, ModelSize
from hubkit.pipeline.release_state import ReleaseState
from hubkit.recipe.models import Recipe, Source

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

TOKENS = 466
"""Mean tokens of a sequence (prompt and one answer) where nobody counted them: half of the 932 a pair that real
preference data has under ChatML. An assumption, and printed as one."""

TEXT_BYTES = 5.0
"""Of a token of English text, as JSON."""
Basis = Literal["counted", "size", "assumed"]
CERTAINTY: Mapping[Basis, float] = {"counted": 1.0, "size": 0.5, "assumed": 0.25}
"""What share of an estimated length of rows is taken for certain, where a step is refused for its memory."""


@dataclass(frozen=True)
class Rows:
    """The rows of one entry of ``data``; None when unknown. ``tokens`` is the mean of a sequence: ``counted`` by a
    training, estimated from the ``size`` of the rows, or ``assumed``."""

    rows: int | None
    tokens: float = TOKENS
    basis: Basis = "assumed"


@dataclass(frozen=True)
class Sizes:
    """All that the cost model knows of a recipe's base and data.

    ``trained`` are the trained parameters by stage. ``base_bytes`` are those of the base's files. ``notes`` say where
    the sizes come from, ``missing`` what is unknown and why.
    """

    model: ModelSize | None = None
    base_bytes: int = 0
    trained: Mapping[str, int] = field(default_factory=dict)
    data: Mapping[str, Rows] = field(default_factory=dict)
    provide_seconds: float | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Finder:
    """Looks a recipe's sizes up. ``hub`` returns the Hub to ask, and raises HubkitError when none can be asked.

    It is called only for what this machine does not have.
    """

    def __init__(self, state: ReleaseState, hub: Callable[[], Hub]) -> None:
        self.state, self._hub = state, hub
        self.packages = packages(state.recipe)
        self.notes: list[str] = []
        self.rows: list[str] = []
        self.missing: list[str] = []
        self._answer: Hub | HubkitError | None = None

    def find(self, model: Model | None) -> Sizes:
        """Everything that can be known. ``model`` is what :mod:`hubkit.pipeline.costs.asking` made of the config."""
        data = {name: self._rows(name, sources) for name, sources in self.state.recipe.data.items()}
        provided = next((package["provide_seconds"] for package in self.packages if "provide_seconds" in package), None)
        repo, size, nbytes = self.state.recipe.base.repo, model.size if model else None, 0
        if model is not None and size is not None:
            nbytes = size.bytes(model.dtype if model.dtype in BYTES else "bfloat16")
        elif model is not None:
            self.missing.append(f"memory and time of all steps with {repo}: {model.problem}")
        return Sizes(
            model=size,
            base_bytes=nbytes,
            trained=self._trained(model) if model else {},
            data=data,
            provide_seconds=provided,
            notes=(*dict.fromkeys(self.notes), *self._row_notes()),
            missing=tuple(dict.fromkeys(self.missing)),
        )

    # --- the base

    def loras(self) -> dict[str, Mapping[str, Any]]:
        """The LoRA configs of the stages that begin an adapter, by stage; on the base, or on weights of its shape."""
        recipe = self.state.recipe
        return {
            name: stage.lora_keys
            for name, stage in recipe.stages.items()
            if stage.data
            and not stage.trains_all_weights
            and (not stage.continues or recipe.form(stage.continues) == "weights")
        }

    def _trained(self, model: Model) -> dict[str, int]:
        """Trained parameters by stage: those of the adapter that it begins or continues, or all of the model."""
        recipe, known, found = self.state.recipe, model.trained or {}, {}
        for name in recipe.stages:
            if recipe.stages[name].trains_all_weights:
                if model.size is not None:
                    found[name] = model.size.parameters
                continue
            root = next((item for item in reversed(recipe.chain(name)) if item in known), None)
            if root is not None:
                found[name] = known[root]
        return found

    def config(self) -> bytes | None:
        """The base's config.json; None when it is found nowhere."""
        repo, revision = self.state.recipe.base.repo, self.state.recipe.base.revision
        if (config := cached_config(self.state.target, repo, revision)) is not None:
            self.notes.append(f"{repo}: config.json as this machine has it in its cache")
            return config
        for package in self.packages:
            if (entry := package.get("models", {}).get(repo)) is not None:
                self.notes.append(f"{repo}: config.json from {entry['source']}")
                return json.dumps(entry["config"]).encode()
        try:
            config = self._asked().read_file(repo, "config.json", revision)
        except HubkitError as error:
            config, why = None, _sentence(error)
        else:
            why = "the repo has no config.json"
        if config is None:
            self.missing.append(f"memory and time of all steps with {repo}, whose config.json is unknown: {why}")
        return config

    # --- the data

    def _rows(self, name: str, sources: tuple[Source, ...]) -> Rows:
        counted = self._of_last_run(name)
        if counted is not None:
            return counted
        stages = [stage.uses or key for key, stage in self.state.recipe.stages.items() if stage.data == name]
        found = [self._rows_of(source, pairs="dpo" in stages) for source in sources]
        if any(rows.rows is None for rows in found):
            return Rows(None)
        total = sum(rows.rows or 0 for rows in found)
        mean = sum((rows.rows or 0) * rows.tokens for rows in found) / total if total else TOKENS
        rate = self.state.recipe.gates.stop_rate
        if rate is not None and rate.prompts_from == name and not any(source.rows for source in sources):
            total = max(0, total - rate.prompts)
        return Rows(total, mean, min((rows.basis for rows in found), key=CERTAINTY.__getitem__))

    def _rows_of(self, source: Source, *, pairs: bool) -> Rows:
        """The rows of one source; ``pairs``: of preferences, where a sequence is the prompt and one of two answers."""
        entry = next(
            (found for package in self.packages if (found := package.get("datasets", {}).get(source.name))), None
        )
        if entry is not None:
            rows = min(int(entry["rows"]), source.rows or int(entry["rows"]))
            self.rows.append(f"{count(rows)} of {source.name}, from {entry['source']}")
            return Rows(rows, float(entry["tokens"]), "counted") if "tokens" in entry else Rows(rows)
        try:
            listed = look_up(self._asked(), source) if source.repo else self._of_files(source)
        except HubkitError as error:
            listed = Listed(found=_sentence(error))
        limits = [number for number in (listed.rows, source.rows) if number is not None]
        if not limits:
            self.missing.append(f"the rows of {source.name}: {listed.found}")
            return Rows(None)
        rows = min(limits)
        said = "as the recipe asks" if rows == source.rows else listed.found
        self.rows.append(f"{'about ' if 'size' in said else ''}{count(rows)} of {source.name}, {said}")
        if listed.row_bytes is None:
            return Rows(rows)
        return Rows(rows, listed.row_bytes / TEXT_BYTES * (2 / 3 if pairs else 1), "size")

    def _of_files(self, source: Source) -> Listed:
        from hubkit.training.data.files import matching

        return rows_of_files(matching(self.state.folder, source))

    def _of_last_run(self, name: str) -> Rows | None:
        """What the last run's data step kept, and the tokens that its training counted."""
        from hubkit.training.data.prepared import PreparedData

        artifact = self.state.finished.get("data")
        if artifact is None:
            return None
        try:
            kept = PreparedData.load(artifact.path).sets.get(name)
        except (HubkitError, OSError, ValueError):
            return None
        if kept is None:
            return None
        self.rows.append(f"{count(kept.rows)} of data.{name}, as the run {self.state.run.name} prepared them")
        if (tokens := self._counted(name)) is not None:
            return Rows(kept.rows, tokens, "counted")
        fallback = [
            float(package["datasets"][source.name].get("tokens") or 0)
            for source in self.state.recipe.data[name]
            for package in self.packages
            if source.name in package.get("datasets", {})
        ]
        mean = sum(fallback) / len(fallback) if fallback and all(fallback) else None
        return Rows(kept.rows, mean, "counted") if mean else Rows(kept.rows)

    def _counted(self, name: str) -> float | None:
        """Mean tokens of a sequence, as the last training on data.``name`` counted them; None without one."""
        for stage, training in self.state.recipe.stages.items():
            artifact = self.state.run.find(f"train[{stage}]") if training.data == name else None
            if artifact is None:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
                kept = read_json(artifact.path / "training.json")
                cut = kept.get("batches") or {}
                batch = int(cut.get("per_device") or kept["args"].get("per_device_train_batch_size", 8))
                together = int(cut.get("accumulation") or kept["args"].get("gradient_accumulation_steps", 1))
                tokens = float(kept["tokens_per_second"]) * float(kept["seconds"])
                sequences = 2 if kept["method"] == "dpo" else 1
                return tokens / (int(kept["steps"]) * batch * together * sequences)
        return None

    def _row_notes(self) -> list[str]:
        return [f"rows: {'; '.join(dict.fromkeys(self.rows))}"] if self.rows else []

    def _asked(self) -> Hub:
        if self._answer is None:
            try:
                self._answer = self._hub()
            except HubkitError as error:
                self._answer = error
        if isinstance(self._answer, HubkitError):
            raise self._answer
        return self._answer


def packages(recipe: Recipe) -> list[dict[str, Any]]:
    """The ``SIZES`` of installed recipe packages: first that which provides for ``recipe``.

    What a package only provides on an embedded Hub has other rows than the dataset of that name: it is left out for a
    recipe that the package does not provide for.
    """
    found = []
    for name, point in sorted(offered("hubkit.recipes").items(), key=lambda item: item[0] != recipe.provide):
        path = getattr(point.load(), "SIZES", None)
        if path is None:
            continue
        sizes = dict(read_json(Path(path)))
        if name == recipe.provide or not sizes.get("only_provided"):
            found.append(sizes)
    return found


def cached_config(target: Target, repo: str, revision: str) -> bytes | None:
    """``config.json`` of ``repo`` at ``revision`` in the client's cache of ``target``; None when it is not there."""
    folder = target.home / "hub" / f"models--{repo.replace('/', '--')}"
    with contextlib.suppress(OSError, ValueError):
        reference = folder / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        return (folder / "snapshots" / commit / "config.json").read_bytes()
    return None


def _sentence(error: Exception) -> str:
    return str(getattr(error, "message", error)).rstrip(".")
