"""What programs can ask, by name: ``/answer``, ``/compare``, ``/prompt``, ``/revisions`` and ``/status``.

from gradio_client import Client
client = Client("user/space")
client.predict("Hello?", "main", api_name="/answer")             # the whole answer
for answer in client.submit("Hello?", "main", api_name="/answer"):
    ...                                                          # the answer as it grows
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from generation import Answer, Settings, usual_limit
from loading import Loader, NotReady

LOADING_SECONDS = 1800.0
"""How long a program waits for the models to be loaded."""
ROLES = ("system", "user", "assistant")


class Endpoints:
    """The named endpoints of the app."""

    def __init__(
        self,
        release: Mapping[str, Any],
        loader: Loader,
        generate: Callable[..., Iterator[list[Answer]]],
        seconds: float,
    ) -> None:
        self.release, self.loader, self.generate, self.seconds = release, loader, generate, seconds
        self.names = [item["name"] for item in release["revisions"]]

    def add(self) -> None:
        """Offer the endpoints in the current ``gr.Blocks``."""
        gr.api(self.answer, api_name="answer")
        if len(self.names) > 1:
            gr.api(self.compare, api_name="compare")
        gr.api(self.prompt, api_name="prompt")
        gr.api(self.revisions, api_name="revisions", queue=False)
        gr.api(self.status, api_name="status", queue=False)

    def answer(
        self,
        prompt: str,
        revision: str,
        system: str = "",
        limit: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        history: list[dict[str, str]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Answer a message with one revision; streams the answer as it grows.

        Parameters:
            prompt: The message.
            revision: The name of a revision, see /revisions.
            system: The system prompt, if any.
            limit: The highest number of new tokens; null: that of the release's measurements, if the model takes it.
            temperature: 0 is greedy; above, the answer is sampled.
            top_p: Sample from the most probable tokens that add up to this share.
            seed: Seed of a sampled answer; null draws one.
            history: Earlier messages, the oldest first: {"role": "user" | "assistant", "content"}.
        Returns:
            {"text", "ended", "tokens", "seconds", "seed"}. ended is "" while the answer grows, then "eos", "limit",
            "timeout" or the text of another token that ended it.
        """
        for [answer] in self.answering([revision], prompt, system, limit, temperature, top_p, seed, history):
            yield answer

    def compare(
        self,
        prompt: str,
        left: str,
        right: str,
        system: str = "",
        limit: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Answer a message with two revisions at the same time; streams both answers as they grow.

        Parameters:
            prompt: The message.
            left: The name of a revision, see /revisions.
            right: The name of another one, or of the same.
            system: The system prompt, if any.
            limit: The highest number of new tokens; null: that of the release's measurements, if the model takes it.
            temperature: 0 is greedy; above, the answers are sampled.
            top_p: Sample from the most probable tokens that add up to this share.
            seed: Seed of sampled answers, the same for both; null draws one.
        Returns:
            {"left", "right"}, each as /answer returns it.
        """
        for answers in self.answering([left, right], prompt, system, limit, temperature, top_p, seed, None):
            yield dict(zip(("left", "right"), answers, strict=True))

    def prompt(
        self, prompt: str, revision: str, system: str = "", history: list[dict[str, str]] | None = None
    ) -> dict[str, Any]:
        """The exact prompt that the model reads for a message.

        Parameters:
            prompt: The message.
            revision: The name of a revision, see /revisions.
            system: The system prompt, if any.
            history: Earlier messages, as for /answer.
        Returns:
            {"text", "tokens"}: the text with its special tokens, and the token ids.
        """
        models = self.models()
        [(_, ids)] = self.asked(models, [revision], prompt, system, 1, history)
        return {"text": "".join(text for text, _ in models.pieces(revision, ids)), "tokens": ids}

    def revisions(self) -> list[dict[str, Any]]:
        """The revisions that can be asked.

        Returns:
            [{"name", "title", "commit", "stop_rate"}]; stop_rate is {"stopped", "prompts"}, or null if not measured.
        """
        keys = ("name", "title", "commit", "stop_rate")
        return [{key: item.get(key) for key in keys} for item in self.release["revisions"]]

    def status(self) -> dict[str, str]:
        """Whether the models are loaded.

        Returns:
            {"state", "message"}: state is "loading", "waiting" (for the Hub), "ready" or "failed".
        """
        now = self.loader.progress()
        return {"state": now.state, "message": now.message}

    def answering(
        self, revisions: Sequence[str], prompt: str, system: str, limit: int | None, temperature: float, top_p: float,
        seed: int | None, history: list[dict[str, str]] | None,
    ) -> Iterator[list[dict[str, Any]]]:  # fmt: skip
        """The answers of ``revisions`` as they grow. gr.Error for what cannot be asked."""
        models = self.models()
        if limit is None:
            limit = min(usual_limit(self.release), models.max_tokens)
        if not 1 <= limit <= models.max_tokens:
            raise _refused(f"limit must be between 1 and {models.max_tokens}.")
        if not 0 <= temperature <= 5 or not 0 < top_p <= 1:
            raise _refused("temperature must be between 0 and 5, top_p above 0 and at most 1.")
        asked = self.asked(models, revisions, prompt, system, int(limit), history)
        drawn = random.randrange(2**31) if seed is None else int(seed)
        settings = Settings(int(limit), float(temperature), float(top_p), drawn, self.seconds)
        sent = None
        for answers in self.generate(asked, settings):
            plain = [
                {
                    "text": answer.text, "ended": answer.ended, "tokens": answer.tokens,
                    "seconds": round(answer.seconds, 3), "seed": drawn if temperature else None,
                }
                for answer in answers
            ]  # fmt: skip
            if plain != sent:
                yield plain
            sent = plain

    def asked(
        self, models: Any, revisions: Sequence[str], prompt: str, system: str, limit: int, history: Any
    ) -> list[tuple[str, list[int]]]:
        """The prompts. gr.Error for what cannot be asked."""
        if not prompt.strip():
            raise _refused("The prompt is empty.")
        earlier = [_message(item) for item in history or ()]
        first = [{"role": "system", "content": system}] if system.strip() else []
        conversation = [*first, *earlier, {"role": "user", "content": prompt}]
        for revision in revisions:
            if revision not in self.names:
                raise _refused(f"Unknown revision. Available: {', '.join(self.names)}.")
        try:
            return [(revision, models.prompt(revision, conversation, limit)) for revision in revisions]
        except ValueError as error:
            raise _refused(str(error)) from None

    def models(self) -> Any:
        """The models, once they are loaded. gr.Error when they cannot be."""
        try:
            return self.loader.wait(LOADING_SECONDS)
        except NotReady as error:
            raise _refused(str(error)) from None


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict) or item.get("role") not in ROLES or not isinstance(item.get("content"), str):
        raise _refused('history is a list of {"role": "user" | "assistant", "content": text}.')
    return {"role": item["role"], "content": item["content"]}


def _refused(sentence: str) -> gr.Error:
    """An error that the caller can fix, shown without a traceback in the log."""
    return gr.Error(sentence, print_exception=False)
