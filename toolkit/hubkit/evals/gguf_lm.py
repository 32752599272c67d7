"""A GGUF file as a model of lm-evaluation-harness: llama.cpp computes, the questions are asked as of the weights.

lm-eval's own model for transformers is kept for what surrounds the model: how a question is encoded, cut and scored.
Its token ids are those of transformers' tokenizer, which the file's were compared with. lm_eval is imported with this
module, so import it when it is about to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from hubkit.models.gguf.runtime import GgufModel
from hubkit.models.load import load_config, load_tokenizer

_SMALLEST_CONTEXT = 512


class _LlamaCpp:
    """A GGUF file with the calls of a transformers model that lm-eval makes, for one text at a time.

    The file is opened again with a larger context when a text does not fit.
    """

    def __init__(self, file: Path, config: Any, threads: int | None) -> None:
        self.config, self.device = config, torch.device("cpu")
        self._file, self._threads = file, threads
        self._context = 0
        self._model: GgufModel | None = None

    def __call__(self, ids: torch.Tensor) -> Any:
        """The logits after each of ``ids`` (1, tokens): ``logits`` of the shape (1, tokens, vocabulary)."""
        (row,) = ids.tolist()
        return SimpleNamespace(logits=torch.from_numpy(self._fitting(len(row)).all_logits(row)).unsqueeze(0))

    def generate(
        self, input_ids: torch.Tensor, max_length: int, stopping_criteria: Sequence[Any], **others: Any
    ) -> torch.Tensor:
        """The greedy answer to ``input_ids`` (1, tokens) after them, up to ``max_length`` tokens in all.

        It ends where llama.cpp ends it, or a criterion of lm-eval's holds.
        """
        if others.get("do_sample"):
            raise ValueError("a task that samples its answers cannot be asked of a GGUF file")
        (row,) = input_ids.tolist()
        model = self._fitting(max_length)
        for number in model.stream(row, max_new_tokens=max_length - len(row)):
            row.append(number)
            ids = torch.tensor([row])
            if any(bool(criterion(ids, None)) for criterion in stopping_criteria):
                break
        return torch.tensor([row])

    def _fitting(self, tokens: int) -> GgufModel:
        """The open file, with a context of at least ``tokens``."""
        if self._model is None or tokens > self._context:
            self.close()
            self._context = max(_SMALLEST_CONTEXT, 2 * self._context, tokens)
            self._model = GgufModel(self._file, context=self._context, threads=self._threads, every_logit=True)
        return self._model

    def close(self) -> None:
        """Free the memory of the file."""
        if self._model is not None:
            self._model.close()
        self._model = None


class _GgufLM(HFLM):  # type: ignore[misc]
    """lm-eval's model for transformers, over :class:`_LlamaCpp`."""

    def get_model_info(self) -> dict[str, Any]:
        """Nothing: lm-eval would ask a Hub for the file."""
        return {}


@contextmanager
def gguf_lm(file: Path, folder: Path, template: str | None, threads: int | None = None) -> Iterator[Any]:
    """``file``, written from the model in ``folder``, as a model of lm-eval; ``template`` is applied where asked for.

    Its memory is freed when the block exits.
    """
    model = _LlamaCpp(file, load_config(folder), threads)
    try:
        yield _GgufLM(pretrained=model, tokenizer=load_tokenizer(folder, chat_template=template), batch_size=1)
    finally:
        model.close()
