"""The models: for each revision the adapter that was published there, on one base in memory, or its own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Event, Lock, Thread
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.streamers import BaseStreamer

MOST_TOKENS = 2048
"""The highest token limit of an answer, for a model whose context is at least twice as long."""


@dataclass(frozen=True)
class Answer:
    """An answer so far, without special tokens.

    ``tokens`` counts all new tokens, the end-of-turn token among them. ``ended`` is empty while the answer grows, then
    "eos", "limit", "stopped", or the text of another token that ended it.
    """

    text: str = ""
    tokens: int = 0
    ended: str = ""


@dataclass(frozen=True)
class LoadedRevision:
    """The tokenizer and model of one revision; ``lock`` is held while it generates."""

    tokenizer: Any
    model: Any
    ends: Mapping[int, str]
    lock: Lock


class Models:
    """All revisions of a release, loaded and pinned to their commits.

    ``max_tokens`` is the highest token limit of an answer, ``positions`` the context of the model in tokens.
    """

    def __init__(self, release: Mapping[str, Any]) -> None:
        base = None
        if any(_has_adapter(item) for item in release["revisions"]):
            base = _load_model(release["base"]["repo"], release["base"]["commit"], release["dtype"])
        self.revisions = {item["name"]: _load_revision(base, release, item) for item in release["revisions"]}
        self.positions = min(
            int(item.model.config.get_text_config().max_position_embeddings) for item in self.revisions.values()
        )
        self.max_tokens = min(MOST_TOKENS, self.positions // 2)

    def prompt(self, revision: str, messages: Sequence[Mapping[str, str]], limit: int) -> list[int]:
        """Token ids of a conversation, as the prompt of ``revision``. ValueError when it is too long."""
        tokenizer = self.revisions[revision].tokenizer
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) + limit > self.positions:
            raise ValueError(
                f"The conversation has {len(ids)} tokens and the answer may have {limit}: together more than "
                f"the model's context of {self.positions}. Shorten the message, lower the limit or clear the chat."
            )
        return ids

    def answers(
        self, asked: Sequence[tuple[str, list[int]]], limit: int, temperature: float = 0.0
    ) -> Iterator[list[Answer]]:
        """Answer all ``(revision, prompt)`` at the same time; yields the answers as they grow.

        ``temperature`` 0 is greedy. Closing the iterator ends the generation.
        """
        news, stop = Event(), Event()
        generations = [_Generation(self.revisions[revision], news) for revision, _ in asked]
        for generation, (_, ids) in zip(generations, asked, strict=True):
            Thread(target=generation.run, args=(ids, limit, temperature, stop), daemon=True).start()
        try:
            finished = False
            while not finished:
                news.wait(0.2)  # a short wait, so that the reader can close this iterator before the first token
                news.clear()
                finished = all(generation.finished for generation in generations)
                yield [generation.answer(limit) for generation in generations]
        finally:
            stop.set()


def share(base: Any) -> Any:
    """A copy of the module tree that shares the tensors of ``base``: an adapter added to one is not in the other."""
    return copy.deepcopy(base, {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())})


def _has_adapter(revision: Mapping[str, Any]) -> bool:
    return bool(revision.get("form", "adapter") == "adapter")


def _load_model(repo: str, commit: str, dtype: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(repo, revision=commit, dtype=getattr(torch, dtype))
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    # As in the measurements of the stop rate: the model's own generation settings are ignored.
    model.generation_config = GenerationConfig()
    return model


def _load_revision(base: Any, release: Mapping[str, Any], revision: Mapping[str, Any]) -> LoadedRevision:
    """One revision of ``release``: at its commit of the release's repo, or of a ``repo`` of its own."""
    repo, commit = revision.get("repo", release["repo"]), revision["commit"]
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=commit)
    if _has_adapter(revision):
        model = PeftModel.from_pretrained(share(base), repo, subfolder="adapter", revision=commit).get_base_model()
    else:
        model = _load_model(repo, commit, release["dtype"])
    ends = {tokenizer.eos_token_id: tokenizer.eos_token, release["end_of_turn"]["id"]: "eos"}
    ends.pop(None, None)
    return LoadedRevision(tokenizer, model.eval(), ends, Lock())


class _Generation(BaseStreamer):
    """One answer being generated: one thread runs ``generate``, another reads ``answer``."""

    def __init__(self, revision: LoadedRevision, news: Event) -> None:
        self.revision, self.news = revision, news
        self.ids: list[int] | None = None
        self.error: Exception | None = None
        self.finished = False

    def run(self, ids: Sequence[int], limit: int, temperature: float, stop: Event) -> None:
        """Generate until a token ends the answer, ``limit`` is reached or ``stop`` is set."""
        model, ends = self.revision.model, list(self.revision.ends)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        try:
            prompt = torch.tensor([ids], device=model.device)
            with self.revision.lock, torch.inference_mode():
                model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=GenerationConfig(
                        max_new_tokens=limit, eos_token_id=ends, pad_token_id=ends[0], **sampling
                    ),
                    stopping_criteria=[lambda seen, _, **__: torch.tensor([stop.is_set()], device=seen.device)],
                    streamer=self,
                )
        except Exception as error:
            self.error = error
        self.finished = True
        self.news.set()

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, [1, length], which comes first, or a new token, [1]."""
        if self.ids is None:
            self.ids = []
        else:
            self.ids.extend(value.tolist())
        self.news.set()

    def end(self) -> None:
        """Nothing: ``run`` knows when ``generate`` is done."""

    def answer(self, limit: int) -> Answer:
        """The answer so far. Raises the error of a failed generation."""
        if self.error:
            raise self.error
        finished, ids = self.finished, list(self.ids or ())
        text = self.revision.tokenizer.decode(ids, skip_special_tokens=True)
        if not finished:
            return Answer(text.rstrip("\ufffd"), len(ids))  # the rest of a character may be in the next token
        last = self.revision.ends.get(ids[-1]) if ids else None
        return Answer(text, len(ids), last or ("limit" if len(ids) >= limit else "stopped"))
