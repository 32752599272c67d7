"""The models: for each revision the adapter that was published there, on one base in memory, or its own weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from queue import Queue
from typing import Any

import torch
from generation import Answer, LoadedRevision, Settings, share, stream
from jinja2 import TemplateError
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MOST_TOKENS = 2048
"""The highest token limit of an answer, for a model whose context is at least twice as long."""
AT_ONCE = 4
"""How many answers of one revision are generated at the same time."""


class Models:
    """All revisions of a release, loaded and pinned to their commits.

    ``max_tokens`` is the highest token limit of an answer, ``positions`` the context of the model in tokens.
    ``report`` is called with what is being loaded.
    """

    def __init__(self, release: Mapping[str, Any], report: Any = lambda words: None) -> None:
        base = None
        if any(has_adapter(item) for item in release["revisions"]):
            report(f"Loading the base, {release['base']['repo']}")
            base = _load_model(release["base"]["repo"], release["base"].get("commit"), _dtype(release))
        self.revisions: dict[str, LoadedRevision] = {}
        positions = []
        for item in release["revisions"]:
            report(f"Loading {item['name']}")
            self.revisions[item["name"]], context = _load_revision(base, release, item)
            positions.append(context)
        self.positions = min(positions)
        self.max_tokens = min(MOST_TOKENS, self.positions // 2)

    def prompt(self, revision: str, messages: Sequence[Mapping[str, str]], limit: int) -> list[int]:
        """Token ids of a conversation, as the prompt of ``revision``.

        A control token that somebody typed is read as text. ValueError when the conversation is too long, or when the
        chat template refuses it.
        """
        tokenizer = self.revisions[revision].tokenizer
        if not tokenizer.chat_template:
            raise ValueError(f"The tokenizer of {revision} has no chat template, so it cannot be chatted with.")
        try:
            ids = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        except TemplateError as error:
            raise ValueError(f"The chat template of {revision} refuses this conversation: {error}") from None
        if len(ids) + limit > self.positions:
            raise ValueError(
                f"The conversation has {len(ids)} tokens and the answer may have {limit}: together more than "
                f"the model's context of {self.positions}. Shorten the message, lower the limit or clear the chat."
            )
        return list(ids)

    def pieces(self, revision: str, ids: Sequence[int]) -> list[tuple[str, bool]]:
        """The text of a prompt in pieces, and whether each is a special token."""
        tokenizer = self.revisions[revision].tokenizer
        special = set(tokenizer.added_tokens_decoder)
        pieces: list[tuple[str, bool]] = []
        plain: list[int] = []
        for token in [*ids, None]:
            if token is not None and token not in special:
                plain.append(token)
                continue
            if plain:
                pieces.append((tokenizer.decode(plain, clean_up_tokenization_spaces=False), False))
                plain = []
            if token is not None:
                pieces.append((tokenizer.added_tokens_decoder[token].content, True))
        return pieces

    def answers(self, asked: Sequence[tuple[str, list[int]]], settings: Settings) -> Iterator[list[Answer]]:
        """Answer all ``(revision, prompt)`` at the same time: see ``generation.stream``."""
        return stream([(self.revisions[revision], ids) for revision, ids in asked], settings)


def has_adapter(revision: Mapping[str, Any]) -> bool:
    """Whether a revision of release.json is an adapter on the base; otherwise it has its own weights."""
    return bool(revision.get("form", "adapter") == "adapter")


def _dtype(release: Mapping[str, Any]) -> Any:
    name = release.get("dtype") or "auto"
    return name if name == "auto" else getattr(torch, name)


def _load_model(repo: str, commit: str | None, dtype: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(repo, revision=commit or "main", dtype=dtype)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _load_revision(base: Any, release: Mapping[str, Any], revision: Mapping[str, Any]) -> tuple[LoadedRevision, int]:
    """One revision of ``release``, at its commit of the release's repo or of a ``repo`` of its own, and its context."""
    repo, commit = revision.get("repo", release["repo"]), revision.get("commit") or "main"
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=commit)
    if has_adapter(revision):
        model = _with_adapter(base, repo, commit, _dtype(release))
    else:
        model = _load_model(repo, commit, _dtype(release))
    ends = _ends(tokenizer, model, release.get("end_of_turn"))
    # As in the measurements of the stop rate: the model's own generation settings are ignored.
    model.generation_config = GenerationConfig()
    trees: Queue[Any] = Queue()
    for tree in [model, *(share(model) for _ in range(AT_ONCE - 1))]:
        trees.put(tree)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2 * MOST_TOKENS
    return LoadedRevision(tokenizer, trees, ends), int(context)


def _with_adapter(base: Any, repo: str, commit: str, dtype: Any) -> Any:
    """The adapter of a revision on the shared base; its merged weights where the adapter does not fit the base."""
    try:
        return (
            PeftModel.from_pretrained(share(base), repo, subfolder="adapter", revision=commit).get_base_model().eval()
        )
    except (RuntimeError, ValueError) as error:
        logging.warning("The adapter of %s does not load on the base; loading its merged weights: %s", repo, error)
        return _load_model(repo, commit, dtype)


def _ends(tokenizer: Any, model: Any, end_of_turn: Mapping[str, Any] | None) -> dict[int, str]:
    """The tokens that end an answer: the end-of-turn token is "eos", the tokenizer's EOS token is named if another."""
    ends = {tokenizer.eos_token_id: tokenizer.eos_token if end_of_turn else "eos"}
    if end_of_turn:
        ends[end_of_turn["id"]] = "eos"
    else:
        known = model.generation_config.eos_token_id
        ends |= dict.fromkeys(known if isinstance(known, list) else [known], "eos")
    ends.pop(None, None)
    return ends
