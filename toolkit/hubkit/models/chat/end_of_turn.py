"""The turn end: the token that closes an assistant turn, and how often a model emits it (the stop rate).

The turn end is read from a conversation that the tokenizer's own chat template rendered. It is often not
``tokenizer.eos_token``, and a model trained or stopped on the wrong one never ends its answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError

SENTINEL = "Qzx7 unmistakable answer 7xzQ"
"""An assistant answer that no template contains and whose ends no template trims."""
PROBE: tuple[Mapping[str, str], ...] = (
    {"role": "user", "content": "Say something."},
    {"role": "assistant", "content": SENTINEL},
)
"""The conversation whose rendering shows the turn end; no system message, as some templates refuse one."""

_CLOSE_IT = "End assistant messages in the template with one token of the vocabulary, such as <|im_end|>."

Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class TurnEnd:
    """The token that closes an assistant turn.

    ``suffix_ids`` are the ids that the template writes after it (ChatML: the newline); a model is not asked
    to emit them.
    """

    token: str
    id: int
    suffix_ids: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """``{"token", "id", "suffix_ids"}``."""
        return {"token": self.token, "id": self.id, "suffix_ids": list(self.suffix_ids)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TurnEnd:
        """The turn end that :meth:`to_json` wrote."""
        return cls(value["token"], value["id"], tuple(value.get("suffix_ids", ())))


def find(tokenizer: Any) -> TurnEnd:
    """The turn end of ``tokenizer`` (of transformers), derived from its chat template.

    Raises RefusedError when there is no template, when it fails, or when it never closes the turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RefusedError(
            "The tokenizer has no chat template, so nothing says how an answer ends.",
            hint="Set chat.template in the recipe: a format such as chatml, or a Jinja file.",
        )
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template([dict(item) for item in PROBE], tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise RefusedError(
            f"The chat template cannot render a user and an assistant message: {error}.",
            hint="Mend the template, or set another one as chat.template in the recipe.",
        ) from error
    return find_in_text(
        rendered,
        tokenizer.added_tokens_encoder,
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


def find_in_text(
    rendered: str, added: Mapping[str, int], encode: Callable[[str], Sequence[int]] | None = None
) -> TurnEnd:
    """The turn end in ``rendered``, which is ``PROBE`` as a template rendered it.

    ``added`` maps the tokenizer's added tokens (special or not) to their ids; ``encode`` gives the ids of a text
    without adding any (without ``encode``, the ids after the turn end stay unknown). Raises RefusedError when no
    such token follows the answer, or when the one that follows opens another turn.
    """
    _, found, after = rendered.rpartition(SENTINEL)
    if not found:
        raise RefusedError(
            "The chat template does not show the assistant's answer as it was given.",
            hint="A template must write the content of every message unchanged.",
        )
    places = [(place, -len(token), token) for token in added if token.strip() and (place := after.find(token)) >= 0]
    if not places:
        shown = f"only {after!r} follows" if after else "nothing follows"
        raise RefusedError(
            f"The chat template never closes the assistant's turn: {shown} the answer, "
            "and that holds none of the tokenizer's added tokens.",
            hint=_CLOSE_IT,
        )
    place, _, token = min(places)
    following = after[place + len(token) :]
    if following[:1].isalpha():
        raise RefusedError(
            f"The chat template never closes the assistant's turn: {token!r} follows the answer, "
            f"but it opens another turn ({(token + following)[:40]!r}).",
            hint=_CLOSE_IT,
        )
    if encode is None:
        return TurnEnd(token, added[token])
    ids = list(encode(after[place:]))
    if added[token] not in ids:
        raise RefusedError(
            f"The tokenizer knows {token!r} as {added[token]}, but does not encode it so.",
            hint="The tokenizer's files disagree with each other; take them from the base model again.",
        )
    return TurnEnd(token, added[token], tuple(ids[ids.index(added[token]) + 1 :]))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, from 0 to 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927), 209-212. Unlike the usual normal interval it is sound at 0 % and 100 %.
    """
    if trials == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share = successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    below = 1 + z * z / trials
    return max(0.0, (middle - spread) / below), min(1.0, (middle + spread) / below)


def difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """The 95 % confidence interval of the share of ``first`` less that of ``second``, each (successes, trials).

    From -1 to 1. Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), 873-890, method 10, which squares the Wilson limits. To see whether two Wilson
    intervals overlap is a coarser look: they still do where this one no longer holds 0.
    """
    (low, high), (other_low, other_high) = wilson(*first), wilson(*second)
    if not first[1] or not second[1]:
        return -1.0, 1.0
    share, other = first[0] / first[1], second[0] / second[1]
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return max(-1.0, share - other - below), min(1.0, share - other + above)


@dataclass(frozen=True)
class Answer:
    """One greedy answer: the prompt's last message, the text without its turn end, whether it stopped."""

    prompt: str
    answer: str
    stopped: bool
    ids: tuple[int, ...]


@dataclass(frozen=True)
class StopRate:
    """How many of the greedy answers ended with the turn end, within ``max_new_tokens``.

    ``answers`` are in the order of the prompts; ``mean_tokens`` counts new tokens, the turn end among them.
    """

    stopped: int
    prompts: int
    mean_tokens: float
    dtype: str
    answers: tuple[Answer, ...]

    @property
    def rate(self) -> float:
        """The share that stopped, from 0 to 1."""
        return self.stopped / self.prompts if self.prompts else 0.0

    def to_json(self) -> dict[str, Any]:
        """The counts, the rate with its 95 % interval, and three examples (those that did not stop first)."""
        low, high = wilson(self.stopped, self.prompts)
        chosen = sorted(self.answers, key=lambda item: item.stopped)[:3]
        return {
            "stopped": self.stopped,
            "prompts": self.prompts,
            "rate": self.rate,
            "low": low,
            "high": high,
            "mean_tokens": self.mean_tokens,
            "dtype": self.dtype,
            "examples": [{"prompt": item.prompt, "answer": item.answer, "stopped": item.stopped} for item in chosen],
        }


def measure(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    turn_end: TurnEnd,
    *,
    max_new_tokens: int,
    batch_size: int,
    report: Report | None = None,
) -> StopRate:
    """The stop rate of ``model`` (of transformers or PEFT) over ``prompts``.

    A prompt is a row ``{"messages": [...]}`` that ends in a user's turn. Greedy: the model's own
    ``generation_config`` (temperature, repetition penalty, stop tokens, lengths) has no say; a generation
    ends at the turn end or after ``max_new_tokens``. Prompts are batched by length with padding on the left,
    and a batch ends with its longest answer; in float32 the answers are those of single prompts. ``report`` gets the
    figure after each batch.
    """
    import torch

    texts = [
        tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True) for row in prompts
    ]
    ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]), reverse=True)
    fresh: dict[int, tuple[int, ...]] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), _plain_generation(model, turn_end, max_new_tokens) as inner:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = _generate(inner, [ids[row] for row in rows], turn_end)
                fresh.update(zip(rows, batch, strict=True))
                if report:
                    stopped = sum(turn_end.id in new for new in fresh.values())
                    report(f"{stopped} of {len(fresh)} answers stopped", len(fresh) / len(order))
    finally:
        model.train(was_training)
    answers = tuple(
        Answer(
            prompt=str(row["messages"][-1]["content"]),
            answer=tokenizer.decode([token for token in fresh[index] if token != turn_end.id]),
            stopped=turn_end.id in fresh[index],
            ids=fresh[index],
        )
        for index, row in enumerate(prompts)
    )
    tokens = sum(len(item.ids) for item in answers)
    return StopRate(
        stopped=sum(item.stopped for item in answers),
        prompts=len(answers),
        mean_tokens=tokens / len(answers) if answers else 0.0,
        dtype=_dtype(model),
        answers=answers,
    )


def _generate(model: Any, ids: Sequence[Sequence[int]], turn_end: TurnEnd) -> list[tuple[int, ...]]:
    """New ids of each row, up to and with the turn end. ``ids`` are prompts of any length."""
    import torch

    width = max(len(row) for row in ids)
    padded = [[turn_end.id] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    made = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
    )[:, width:].tolist()
    return [tuple(row[: row.index(turn_end.id) + 1]) if turn_end.id in row else tuple(row) for row in made]


@contextmanager
def _plain_generation(model: Any, turn_end: TurnEnd, max_new_tokens: int) -> Iterator[Any]:
    """The transformers model within ``model``, with a generation config that is greedy and nothing else.

    The model's own is put aside rather than passed over, as ``generate`` fills from it what a given config
    leaves out.
    The padding id may be the turn end: padded places are masked, and rows are cut at the first turn end.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = inner.generation_config
    inner.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=turn_end.id,
        pad_token_id=turn_end.id,
        use_cache=True,
    )
    try:
        yield inner
    finally:
        inner.generation_config = kept


def _dtype(model: Any) -> str:
    """The dtype of the weights in words; ``nf4`` and the like for a quantized base."""
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:
        settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
        return str(settings.get("bnb_4bit_quant_type") or settings.get("quant_method"))
    return str(model.dtype).removeprefix("torch.")
