"""Answers, token by token: one thread generates each answer, the caller reads all of them as they grow."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Settings:
    """How to generate. ``temperature`` 0 is greedy, and ``top_p`` and ``seed`` then change nothing.

    An answer of more than ``seconds`` is cut off.
    """

    limit: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    seconds: float = 300.0


def usual_limit(release: Mapping[str, Any]) -> int:
    """The highest number of new tokens that was measured with. A model of a short context may take fewer."""
    return int(release.get("max_new_tokens") or 256)


@dataclass(frozen=True)
class Answer:
    """An answer so far, without special tokens.

    ``tokens`` counts all new tokens, the end-of-turn token among them; they took ``seconds``. ``ended`` is empty while
    the answer grows, then "eos", "limit", "stopped", "timeout", or the text of another token that ended it.
    """

    text: str = ""
    tokens: int = 0
    ended: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class LoadedRevision:
    """The tokenizer of a revision and its module trees: an answer takes one out of ``trees`` while it is generated.

    The trees share their tensors, so that more of them cost next to no memory. ``ends`` are the tokens that end an
    answer, with what ``Answer.ended`` is then.
    """

    tokenizer: Any
    trees: Queue[Any]
    ends: Mapping[int, str]


PACE = 0.05
"""Seconds between two looks at growing answers: more often than 20 times a second nobody reads."""


def share(model: Any) -> Any:
    """A copy of a module tree that shares its tensors: an adapter added to one is not in the other."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


def stream(asked: Sequence[tuple[LoadedRevision, Sequence[int]]], settings: Settings) -> Iterator[list[Answer]]:
    """Answer all ``(revision, prompt)`` at the same time; yields the answers as they grow.

    Closing the iterator ends the generation.
    """
    news, stop = Event(), Event()
    generations = [_Generation(revision, settings, news) for revision, _ in asked]
    for generation, (_, ids) in zip(generations, asked, strict=True):
        Thread(target=generation.run, args=(ids, stop), daemon=True).start()
    try:
        finished, looked = False, 0.0
        while not finished:
            time.sleep(max(0.0, looked + PACE - time.monotonic()))
            news.wait(0.2)  # a short wait, so that the reader can close this iterator before the first token
            looked = time.monotonic()
            news.clear()
            finished = all(generation.finished for generation in generations)
            yield [generation.answer() for generation in generations]
    finally:
        stop.set()


class SeededChoice(LogitsProcessor):  # type: ignore[misc]
    """Draws the next token as ``generate(do_sample=True)`` does after ``torch.manual_seed(seed)``.

    The generator is its own: the global one is shared by all threads, so that a seed would mean nothing. Only the drawn
    token is left for the greedy search that follows.
    """

    def __init__(self, seed: int, device: Any) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with all but the drawn token at minus infinity."""
        drawn = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1, generator=self.generator)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class _Generation(BaseStreamer):  # type: ignore[misc]
    """One answer being generated: one thread runs ``generate``, another reads ``answer``."""

    def __init__(self, revision: LoadedRevision, settings: Settings, news: Event) -> None:
        self.revision, self.settings, self.news = revision, settings, news
        self.ids: list[int] | None = None
        self.error: Exception | None = None
        self.began = self.latest = 0.0
        self.finished = False

    def run(self, ids: Sequence[int], stop: Event) -> None:
        """Generate until a token ends the answer, ``limit`` is reached or ``stop`` is set."""
        model = self.revision.trees.get()
        try:
            if not stop.is_set():
                self.began = self.latest = time.monotonic()
                self.generate(model, ids, stop)
        except Exception as error:
            self.error = error
        finally:
            self.revision.trees.put(model)
        self.finished = True
        self.news.set()

    def generate(self, model: Any, ids: Sequence[int], stop: Event) -> None:
        """Let ``model`` write to this streamer."""
        ends = list(self.revision.ends)
        prompt = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=self.settings.limit,
                    max_time=self.settings.seconds,
                    eos_token_id=ends or None,
                    pad_token_id=ends[0] if ends else 0,
                ),
                logits_processor=self.sampling(model.device),
                stopping_criteria=[lambda seen, _, **__: torch.tensor([stop.is_set()], device=seen.device)],
                streamer=self,
            )

    def sampling(self, device: Any) -> list[Any]:
        """What ``generate`` does between the logits and the choice of a token; nothing when it is greedy."""
        settings = self.settings
        if not settings.temperature:
            return []
        steps: list[Any] = [TemperatureLogitsWarper(float(settings.temperature))]
        if settings.top_p < 1:
            steps.append(TopPLogitsWarper(float(settings.top_p)))
        return [*steps, SeededChoice(settings.seed, device)]

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, [1, length], which comes first, or a new token, [1]."""
        if self.ids is None:
            self.ids = []
        else:
            self.ids.extend(value.tolist())
            self.latest = time.monotonic()
        self.news.set()

    def end(self) -> None:
        """Nothing: ``run`` knows when ``generate`` is done."""

    def answer(self) -> Answer:
        """The answer so far. Raises the error of a failed generation."""
        if self.error:
            raise self.error
        finished, ids, seconds = self.finished, list(self.ids or ()), self.latest - self.began
        text = self.revision.tokenizer.decode(ids, skip_special_tokens=True)
        if not finished:
            return Answer(text.rstrip("\ufffd"), len(ids), "", seconds)  # the rest of a character may come next
        ended = self.revision.ends.get(ids[-1]) if ids else None
        if not ended and len(ids) >= self.settings.limit:
            ended = "limit"
        return Answer(text, len(ids), ended or ("timeout" if seconds >= self.settings.seconds else "stopped"), seconds)
