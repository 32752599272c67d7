"""The stop rate: the share of greedy answers that end with the end-of-turn token within the token limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.intervals import wilson
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.generation import BatchSize, Engine, Ids, Together, generate

Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Answer:
    """One greedy answer: the prompt's last message, the text without its end-of-turn token, whether it stopped.

    ``single``: the prompt is one message of a user and nothing else. ``plain`` is the answer as a reader sees it: no
    special token is in it.
    """

    prompt: str
    answer: str
    stopped: bool
    ids: tuple[int, ...]
    single: bool = False
    plain: str = ""


@dataclass(frozen=True)
class StopRate:
    """How many of the greedy answers ended with the end-of-turn token, within ``max_new_tokens``.

    ``answers`` are in the order of the prompts; ``mean_tokens`` counts new tokens, the end-of-turn token among them.
    """

    stopped: int
    prompts: int
    mean_tokens: float
    dtype: str
    answers: tuple[Answer, ...]
    generated_by: str = "transformers"

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
    end_of_turn: EndOfTurn,
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    report: Report | None = None,
    engine: Engine | None = None,
    engine_name: str = "vllm",
    together: Together | None = None,
) -> StopRate:
    """The stop rate of ``model`` (of transformers or PEFT) over ``prompts``.

    A prompt is a row ``{"messages": [...]}`` that ends in a user's turn. Greedy: the model's own
    ``generation_config`` (temperature, repetition penalty, stop tokens, lengths) has no say; a generation
    ends at the end-of-turn token or after ``max_new_tokens``. Prompts are batched by length, and a batch ends with its
    longest answer (:mod:`hubkit.models.chat.generation`). ``report`` gets the figure after each batch. ``engine``,
    called ``engine_name``, answers in the model's place. ``together`` are processes that share the prompts.
    """
    texts = [
        tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True) for row in prompts
    ]
    ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def progress(answered: Mapping[int, Ids]) -> None:
        if report:
            stopped = sum(end_of_turn.id in new for new in answered.values())
            own = len(ids) / (together.count if together else 1)
            report(f"{stopped} of {len(answered)} answers stopped", min(1.0, len(answered) / own))

    fresh = generate(
        model,
        ids,
        end_of_turn,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
        engine=engine,
        together=together,
    )
    answers = tuple(
        Answer(
            prompt=str(row["messages"][-1]["content"]),
            answer=tokenizer.decode([token for token in fresh[index] if token != end_of_turn.id]),
            stopped=end_of_turn.id in fresh[index],
            ids=fresh[index],
            single=[message["role"] for message in row["messages"]] == ["user"],
            plain=_plain(tokenizer, fresh[index], end_of_turn),
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
        generated_by="transformers" if engine is None else engine_name,
    )


def _plain(tokenizer: Any, ids: Ids, end_of_turn: EndOfTurn) -> str:
    """The text of ``ids`` without special tokens; an end-of-turn token need not be one of the tokenizer's."""
    return str(tokenizer.decode([token for token in ids if token != end_of_turn.id], skip_special_tokens=True))


def _dtype(model: Any) -> str:
    """The dtype of the weights in words; ``nf4`` and the like for a quantized base."""
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:
        settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
        return str(settings.get("bnb_4bit_quant_type") or settings.get("quant_method"))
    return str(model.dtype).removeprefix("torch.")
