"""What a training stage made: an adapter as PEFT saves it, or full weights; and what the training reported.

training.json             the facts below
adapter/                  adapter_config.json and adapter_model.safetensors, bound to the base's repo and commit
weights/                  in place of adapter/: a whole checkpoint in safetensors as transformers saves it; the
                          tokenizer may be missing
curves.json               the curves (:mod:`hubkit.training.watching.curves`)
tracking/                 what trackers wrote (`report_to`)
seen/texts.json           token ids that the trainer saw (:mod:`hubkit.models.chat.trained`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hubkit.models.chat.trained import Seen, load_seen
from hubkit.recipe.artifact import JsonArtifact

Form = Literal["adapter", "weights"]
"""What a training leaves: an adapter for its base, or the weights of a whole model."""


@dataclass(frozen=True)
class TrainedOn:
    """The base that was trained, at its commit."""

    repo: str
    commit: str


@dataclass(frozen=True)
class TrainedAdapter(JsonArtifact):
    """What a training stage made.

    ``batches`` is how the rows of an optimizer step were cut (:class:`hubkit.training.batch_size.Batches`),
    ``attention`` transformers' implementation.
    ``seconds`` and ``peak_memory_bytes`` count all processes of an interrupted training. ``tokens`` are all that it
    trained on; they and ``tokens_per_second`` are None where it was interrupted. ``curve`` has a point for each logged
    step, ``evaluation`` the ``step`` and ``loss`` of each evaluation on rows that are not trained on; ``pairs`` what
    DPO did not have to compute: see :func:`hubkit.training.pairs.trainer.report_of`. ``probes`` are the stop rates that
    were measured while it trained: ``step``, ``stopped`` of ``prompts``, ``rate``, ``mean_tokens``, ``seconds``.
    ``trackers`` have a ``name`` and the ``url`` of the training's page, if it has one. ``form`` says which folder the
    weights are in: it is missing in artifacts of earlier versions, which are adapters. ``processes`` and
    ``global_batch``, the rows of one step of the optimizer in all of them, are None where nothing was launched; the
    peak memory is then that of the largest process.

    What was trained elsewhere (``uses: adopt``) has ``origin``: ``name`` of the folder or repo, ``commit``, ``file``
    (the folder in it), ``base_name`` and ``base_by`` (how its base is known to be this one), ``digests`` by file. And
    ``reported``: ``trained_with`` as the person says, ``files`` as :mod:`hubkit.training.adoption.reports` reads them.
    """

    FILE = "training.json"
    stage: str
    form: Form = "adapter"
    uses: str | None = None
    method: str | None = None
    base: TrainedOn | None = None
    continues: str | None = None
    rows: int | None = None
    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    resumed_from: str | None = None
    tokens_per_second: float | None = None
    tokens: int | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    processes: int | None = None
    global_batch: int | None = None
    quantization: str | None = None
    lora: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    batches: Mapping[str, Any] = field(default_factory=dict)
    attention: str | None = None
    curve: tuple[Mapping[str, Any], ...] = ()
    evaluation: tuple[Mapping[str, Any], ...] = ()
    probes: tuple[Mapping[str, Any], ...] = ()
    trackers: tuple[Mapping[str, Any], ...] = ()
    pairs: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        """The folder of the weights: of an adapter as PEFT loads it, of a whole model as transformers does."""
        return self.folder / self.form

    def seen(self) -> Seen | None:
        """What the trainer saw of its first rows; None when the stage kept nothing of it."""
        return load_seen(self.folder)
