"""Greedy answers to many prompts: by transformers in batches of similar length, or by vLLM.

    with vllm_engine(folder, "bfloat16", end_of_turn, max_new_tokens=1024) as engine:
        answers = generate(model, prompts, end_of_turn, max_new_tokens=1024, batch_size="auto", engine=engine)

In float32 the answers of transformers do not depend on the batch: padding is on the left and masked, and positions are
counted from the first token of each prompt. In a 16-bit dtype the sums of a batch may be rounded otherwise, which moves
the last bits of the logits and may turn a near tie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hubkit.core.errors import HubkitError
from hubkit.core.memory import available_memory
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.load import Source, device, release_memory

_log = logging.getLogger("hubkit.models.chat")

BatchSize = int | Literal["auto"]
"""Prompts per batch. "auto" begins with what the free memory holds, and halves when it does not suffice."""
Ids = Sequence[int]
Engine = Callable[[Sequence[Ids]], Sequence[Ids]]
"""Answers prompts (token ids) in their order: new ids, the end-of-turn token included."""
Progress = Callable[[Mapping[int, Ids]], None]
"""Gets the new ids of all prompts that are answered so far, by their place."""


@dataclass(frozen=True)
class Together:
    """Processes that answer together, each on its own device: this one's ``number`` of ``count``.

    ``gather`` joins the lists that all of them give, in the order of their numbers.
    """

    number: int
    count: int
    gather: Callable[[list[Any]], list[Any]]


_MOST: Mapping[str, int] = {"cuda": 256, "cpu": 8}
"""Of a batch by "auto". A CPU gains nothing from more: a batch ends with its longest answer."""
_MOST_PADDING = 0.25
"""Of the tokens of a batch by "auto", prompts and answers: a prompt that is much shorter begins the next batch."""
_SHARE = 0.6
"""Of the free memory that a batch may take by estimate."""


def generate(
    model: Any,
    prompts: Sequence[Ids],
    end_of_turn: EndOfTurn,
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    progress: Progress | None = None,
    engine: Engine | None = None,
    seconds: float | None = None,
    together: Together | None = None,
) -> list[tuple[int, ...]]:
    """The new ids of each of ``prompts``, up to and with the end-of-turn token, at most ``max_new_tokens``.

    ``model`` (of transformers or PEFT) answers, or ``engine`` where one is given. After ``seconds`` in one batch the
    answers of transformers are cut where they are. With ``together`` each process answers some of the prompts, of each
    length, and all of them get all the answers; ``progress`` gets the own ones.
    """
    if engine is not None:
        answers = {place: _cut(new, end_of_turn) for place, new in enumerate(engine(prompts))}
        if progress:
            progress(answers)
        return [answers[place] for place in range(len(prompts))]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]), reverse=True)
    if together is not None:
        order = order[together.number :: together.count]
    answers = {}
    was_training = model.training
    model.eval()
    try:
        with _plain_generation(model, end_of_turn, max_new_tokens, seconds) as inner:
            longest = len(prompts[order[0]]) if order else 0
            size = _fitting(inner, longest + max_new_tokens) if batch_size == "auto" else batch_size
            while rows := order[len(answers) : len(answers) + size]:
                if batch_size == "auto":
                    rows = rows[: _of_a_length([len(prompts[place]) for place in rows], max_new_tokens)]
                new = _answers(inner, [prompts[place] for place in rows], end_of_turn)
                if new is None:
                    size = _halved(len(rows))
                    continue
                answers.update(zip(rows, new, strict=True))
                if progress:
                    progress(answers)
    finally:
        model.train(was_training)
    if together is not None:
        answers = dict(together.gather(list(answers.items())))
    return [answers[place] for place in range(len(prompts))]


def _of_a_length(lengths: Sequence[int], new: int) -> int:
    """How many of the prompts, longest first, go into one batch without much padding."""
    for count in range(2, len(lengths) + 1):
        padding = sum(lengths[0] - length for length in lengths[:count])
        if padding > _MOST_PADDING * (sum(lengths[:count]) + count * new):
            return count - 1
    return len(lengths)


def _answers(model: Any, ids: Sequence[Ids], end_of_turn: EndOfTurn) -> list[tuple[int, ...]] | None:
    """The answers to one batch; None when the memory does not suffice."""
    import torch

    width = max(len(row) for row in ids)
    padded = [[end_of_turn.id] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    try:
        with torch.inference_mode():
            made = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            )[:, width:].tolist()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return None
    return [_cut(row, end_of_turn) for row in made]


def _cut(new: Ids, end_of_turn: EndOfTurn) -> tuple[int, ...]:
    """``new`` up to and with its first end-of-turn token."""
    ids = tuple(new)
    return ids[: ids.index(end_of_turn.id) + 1] if end_of_turn.id in ids else ids


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halved(size: int) -> int:
    """Half the batch that did not fit; HubkitError when it was a single prompt."""
    release_memory()
    if size == 1:
        raise HubkitError(
            "There is too little memory to answer a single prompt.",
            hint="Lower gates.stop_rate.max_new_tokens, or free memory.",
        )
    return size // 2


def _fitting(model: Any, tokens: int) -> int:
    """How many rows of ``tokens`` the free memory holds: the keys and values of all layers, and the logits of a step.

    An estimate from the model's config; a layer that keeps less than all its tokens takes less.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * tokens
    passing = tokens * config.hidden_size * 4 * model.dtype.itemsize + config.vocab_size * 12
    most = _MOST[device()]
    return max(1, min(most, int(_free_memory() * _SHARE / (cached + passing))))


def _free_memory() -> int:
    """Bytes that are free where models run."""
    import torch

    if device() == "cuda":
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return available_memory()


@contextmanager
def _plain_generation(
    model: Any, end_of_turn: EndOfTurn, max_new_tokens: int, seconds: float | None = None
) -> Iterator[Any]:
    """The transformers model within ``model``, with a generation config that is greedy and nothing else.

    The model's own is replaced, not merely passed over, as ``generate`` fills from it what a given config
    leaves out.
    The padding id may be the end-of-turn token: padded places are masked, and rows are cut at the first end-of-turn
    token.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = inner.generation_config
    inner.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        max_time=seconds,
        eos_token_id=end_of_turn.id,
        pad_token_id=end_of_turn.id,
        use_cache=True,
    )
    try:
        yield inner
    finally:
        inner.generation_config = kept


# --- vLLM


def has_vllm() -> bool:
    """Whether vLLM is installed and there is a GPU for it."""
    return find_spec("vllm") is not None and device() == "cuda"


@contextmanager
def vllm_engine(
    source: Source, dtype: str, end_of_turn: EndOfTurn, *, max_new_tokens: int, adapter: Path | None = None
) -> Iterator[Engine]:
    """vLLM with the model in ``source``, and the LoRA ``adapter`` on it, as an :data:`Engine`.

    hubkit's tests do not run it: they have no machine for it. vLLM has kernels of its own, so that its logits differ
    from those of transformers in the last bits.
    """
    vllm: Any = import_module("vllm")
    place: dict[str, Any] = {"model": str(source)}
    if not isinstance(source, Path):
        place = {"model": source.name, "revision": source.revision, "download_dir": source.cache}
    request = None
    if adapter is not None:
        place |= {"enable_lora": True, "max_lora_rank": _rank(adapter)}
        request = import_module("vllm.lora.request").LoRARequest("adapter", 1, str(adapter))
    # What the generation config of the files says must have no say; the other half of the memory is for transformers.
    place |= {"dtype": dtype, "generation_config": "vllm", "gpu_memory_utilization": 0.5}
    loaded = [vllm.LLM(**place)]
    greedy = vllm.SamplingParams(
        temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=[end_of_turn.id], ignore_eos=True
    )

    def answer(prompts: Sequence[Ids]) -> list[Ids]:
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        found = loaded[0].generate(given, greedy, lora_request=request, use_tqdm=False)
        return [tuple(item.outputs[0].token_ids) for item in found]

    try:
        yield answer
    finally:
        loaded.clear()
        release_memory()


@contextmanager
def vllm_if_it_loads(
    source: Source, dtype: str, end_of_turn: EndOfTurn, *, max_new_tokens: int, adapter: Path | None = None
) -> Iterator[Engine | None]:
    """:func:`vllm_engine`, or None when vLLM cannot load this model (an adapter that it does not know, too little
    memory): transformers answers then. The reason is logged."""
    with ExitStack() as stack:
        engine = None
        try:
            engine = stack.enter_context(
                vllm_engine(source, dtype, end_of_turn, max_new_tokens=max_new_tokens, adapter=adapter)
            )
        except Exception as error:
            _log.warning(
                "vLLM cannot load %s, transformers answers instead: %s: %s", source, type(error).__name__, error
            )
        yield engine


def _rank(adapter: Path) -> int:
    """The least rank that vLLM offers and that holds every matrix of ``adapter``."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(adapter))
    rank = max([config.r, *(config.rank_pattern or {}).values()])
    return next((offered for offered in (8, 16, 32, 64, 128, 256, 320, 512) if offered >= rank), rank)
