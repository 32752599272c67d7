"""The base model, pinned to a commit, with its chat template and the tokens that a release works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubkit.core.files import write_atomic
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.load import PinnedRepo, load_tokenizer
from hubkit.recipe.artifact import JsonArtifact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "chat_template.jinja"
TRAINING_TEMPLATE = "training_template.jinja"


@dataclass(frozen=True)
class BaseFinding:
    """What was found about the base's files. ``level`` is that of a :class:`hubkit.core.findings.Finding`."""

    level: str
    message: str


@dataclass(frozen=True)
class PinnedBase(JsonArtifact):
    """A base model at ``commit``, and what a release settles about it.

    ``dtype`` is that of most of its weights, ``pad_token`` the token to pad with and ``pad_reason`` why (see
    ``hubkit.models.chat.padding``), ``own_pad_token`` the tokenizer's own. ``chat_template`` is the setting of the
    recipe ('file' for a file).
    """

    FILE = "base.json"
    repo: str
    commit: str
    revision: str
    dtype: str
    parameters: int | None
    architecture: str
    vocab_size: int
    end_of_turn: EndOfTurn
    eos_token: str | None
    pad_token: str
    own_pad_token: str | None
    chat_template: str
    chat_template_sha256: str
    chat_template_is_own: bool
    control_tokens: tuple[str, ...]
    licence: str | None
    findings: tuple[BaseFinding, ...] = ()
    pad_reason: str | None = None

    @property
    def template(self) -> str:
        """The chat template that is published, as Jinja text."""
        return (self.folder / TEMPLATE).read_text(encoding="utf-8")

    @property
    def training_template(self) -> str:
        """The same template, which may mark the answers with TRL's ``{% generation %}``."""
        return (self.folder / TRAINING_TEMPLATE).read_text(encoding="utf-8")

    @property
    def is_small(self) -> bool:
        """Whether one CPU thread runs it faster than several: threads of a small model mostly wait for each other."""
        return 0 < (self.parameters or 0) < _SMALL

    def source(self, endpoint: str) -> PinnedRepo:
        """Where its files are loaded from: its repo of the Hub at ``endpoint``, at its commit."""
        return PinnedRepo(self.repo, self.commit, endpoint)

    def load_tokenizer(self, endpoint: str) -> PreTrainedTokenizerBase:
        """The base's tokenizer with the template for training and the padding token."""
        return load_tokenizer(self.source(endpoint), chat_template=self.training_template, pad_token=self.pad_token)


def write_templates(folder: Path, *, published: str, training: str) -> None:
    """Write the two templates beside ``base.json``."""
    write_atomic(folder / TEMPLATE, published)
    write_atomic(folder / TRAINING_TEMPLATE, training)


_SMALL = 20_000_000
"""Parameters. A layer of a small model takes less time than two threads need to meet, the more so on a busy machine
(the tiny release: 93 s with one thread, 573 s with two on a machine whose second core was taken)."""
