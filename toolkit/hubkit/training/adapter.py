"""What a training stage made: an adapter as PEFT saves it, or full weights; and what the training reported.

training.json             the facts below
adapter/                  adapter_config.json and adapter_model.safetensors, bound to the base's repo and commit
weights/                  in place of adapter/: a whole checkpoint in safetensors as transformers saves it; the
                          tokenizer may be missing
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

    ``seconds`` and ``peak_memory_bytes`` count all processes of an interrupted training; ``tokens_per_second`` is
    None after one. ``curve`` has a point for each logged step, ``evaluation`` the ``step`` and ``loss`` of each
    evaluation on rows that are not trained on. ``form`` says which folder the weights are in: it is missing in
    artifacts of earlier versions, which are adapters.

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
    peak_memory_bytes: int | None = None
    device: str | None = None
    quantization: str | None = None
    lora: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Mapping[str, Any], ...] = ()
    evaluation: tuple[Mapping[str, Any], ...] = ()
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
