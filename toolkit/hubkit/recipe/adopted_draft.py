"""The recipe that `hubkit release --adapter ...` (or ``--weights``) writes: nothing is trained, all is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hubkit.core.numbers import count
from hubkit.recipe.draft import (
    BaseFacts,
    DataFacts,
    base_lines,
    card_lines,
    evaluate_lines,
    release_lines,
    space_lines,
    value_text,
    words,
)

STAGE = "adopted"
_OWN_PROMPTS = 128
"""How many prompts hubkit brings (``training/data/own_prompts.txt``)."""
_TOKENS = 512


@dataclass(frozen=True)
class AdoptedDraft:
    """What the recipe is written from. ``source`` is the folder or repo that is adopted.

    ``stated_base`` is what the adapter calls its base where ``--base`` says that it is ``base``; ``quantized``: it was
    trained on a 4-bit copy. ``template`` is a chat template beside what is adopted, if the release is to use it.
    ``prompts`` is a dataset to hold prompts out from; None: hubkit's own are asked.
    """

    repo: str
    hub: str
    base: BaseFacts
    form: Literal["adapter", "weights"]
    source: str
    stated_base: str | None = None
    quantized: bool = False
    trained_with: str | None = None
    reports: tuple[str, ...] = ()
    template: str | None = None
    prompts: DataFacts | None = None


def adopted_draft(made: AdoptedDraft) -> str:
    """The recipe as YAML."""
    parts = (
        _head(made), release_lines(made.base, made.repo, made.hub), base_lines(made.base), _chat(made), _data(made),
        _stage(made), evaluate_lines(made.base, made.hub), _gates(made), card_lines(made.base, made.repo),
        space_lines(made.base, made.repo, 1),
    )  # fmt: skip
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(made: AdoptedDraft) -> Iterator[str]:
    what = "adapter" if made.form == "adapter" else "weights"
    yield f"# The recipe of one release, written by `hubkit release` for the {what} in {words(made.source)}."
    yield "# `hubkit plan` shows what it would do, `hubkit release` does it. Change what you know better."
    yield ""


def _chat(made: AdoptedDraft) -> Iterator[str]:
    if made.template:
        yield ""
        yield f"# The chat template beside the {made.form}, which is not the base's."
        yield f"chat: {{template: {value_text(made.template)}}}"
    elif not made.base.has_template:
        yield ""
        yield "# The base has no chat template of its own."
        yield "chat: {template: chatml}"
    yield ""


def _data(made: AdoptedDraft) -> Iterator[str]:
    if made.prompts is None:
        return
    yield "# Nothing is trained: this is where the prompts of the stop rate come from."
    yield "data:"
    yield "  prompts:"
    split = f", split: {value_text(made.prompts.split)}" if made.prompts.split != "train" else ""
    key = "file" if made.prompts.local else "repo"
    yield f"    - {{{key}: {value_text(made.prompts.repo)}, mapping: {made.prompts.mapping}{split}}}"
    yield ""


def _stage(made: AdoptedDraft) -> Iterator[str]:
    yield "stages:"
    yield f"  {STAGE}:"
    yield "    uses: adopt"
    yield f"    {made.form}: {value_text(made.source)}"
    if made.stated_base:
        yield f"    # what adapter_config.json calls its base; that it is {words(made.base.repo)} is what --base says"
        yield f"    base: {value_text(made.stated_base)}"
    if made.quantized:
        yield "    # it was trained on a 4-bit copy of the base: its stop rate is measured on one, too"
        yield "    quantization: nf4"
    if made.trained_with:
        yield f"    trained_with: {value_text(made.trained_with)}"
    else:
        yield "    # trained_with: what trained it, such as axolotl 0.9; the card reports it"
    if made.reports:
        yield "    # reported on the card as these files have it, and not as measured"
        yield f"    training: [{', '.join(map(value_text, made.reports))}]"
    yield ""
    yield "# What is published: for each branch, the stage whose result it holds."
    yield "variants:"
    yield f"  main: {{stage: {STAGE}}}"
    yield ""


def _gates(made: AdoptedDraft) -> Iterator[str]:
    tokens = min(_TOKENS, (made.base.context or 2 * _TOKENS) // 2)
    prompts = _OWN_PROMPTS
    yield "gates:"
    yield "  # the share of greedy answers that end within `max_new_tokens`"
    yield "  stop_rate:"
    if made.prompts is None:
        yield f"    # on the {count(prompts)} prompts that come with hubkit; or `prompts_from: an entry of data`"
    else:
        prompts = max([size for size in (32, 64, 128, 256) if size <= made.prompts.rows], default=16)
        yield "    prompts_from: prompts"
    yield f"    prompts: {prompts}"
    yield f"    max_new_tokens: {tokens}"
    yield "    at_least: base - 0.02  # not worse than the base"
    yield ""
