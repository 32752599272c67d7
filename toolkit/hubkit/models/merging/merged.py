"""Merged weights: the root files of a variant's branch, and what the merge reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hubkit.core.files import read_json
from hubkit.models.merging.machine import arithmetic
from hubkit.models.merging.merge import MergeReport
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class MergedWeights(JsonArtifact):
    """A model folder (weights, configs, tokenizer, chat template) and the figures of the merge.

    ``targets`` counts the changed tensors by the last part of their module's name. ``finite`` are sha256 digests of
    weight files that were seen to hold no NaN; ``fits`` says that the tensors were compared with ``config.json``.
    ``compared_texts`` is how many texts of the training the tokenizer encodes to the same token ids. ``way``: merged
    tensor by tensor, or by PEFT itself; "cast" where nothing was merged. ``computed_with``: what can change the last
    bit of a number (:func:`hubkit.models.merging.machine.arithmetic`); empty in artifacts of earlier versions.
    """

    FILE = "merge.json"
    dtype: str
    tensors: int
    changed: int
    parameters: int
    bytes: int
    seconds: float
    targets: Mapping[str, int]
    finite: tuple[str, ...]
    fits: bool = False
    compared_texts: int = 0
    way: str = "streamed"
    computed_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, report: MergeReport, folder: Path, *, fits: bool, compared_texts: int) -> MergedWeights:
        """What ``report`` says about the model in ``folder``."""
        return cls(
            dtype=report.dtype,
            tensors=report.tensors,
            changed=report.changed,
            parameters=report.parameters,
            bytes=report.bytes,
            seconds=report.seconds,
            targets=report.targets,
            finite=tuple(sorted(item.sha256 for item in report.files.values())),
            fits=fits,
            compared_texts=compared_texts,
            way=report.way,
            computed_with=arithmetic(),
            folder=folder,
        )

    @property
    def form(self) -> Literal["adapter", "weights"]:
        """What was trained: an adapter, which is merged here, or these weights themselves."""
        return "weights" if self.way == "cast" else "adapter"

    @property
    def model(self) -> Path:
        """The folder that loads as a model of its own."""
        return self.folder / "model"

    def model_digests(self) -> dict[str, str]:
        """sha256 of every file of the model, by its path in the artifact."""
        return {path: item.sha256 for path, item in self.contents.files.items() if path.startswith("model/")}

    @property
    def template(self) -> str | None:
        """The chat template that is published; None when the model has no file of it."""
        path = self.model / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def tokenizer_config(self) -> dict[str, Any]:
        """``tokenizer_config.json``; empty when there is none."""
        path = self.model / "tokenizer_config.json"
        return dict(read_json(path)) if path.is_file() else {}
