"""Write the cards of one variant from what all the steps measured.

Makes ``README.md`` (the branch's card), ``adapter-README.md`` (the adapter's), their pictures in ``assets/``, and
``numbers.json``: for each card every number that stands on it, with the result file and the place in that file from
which it was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hubkit.cards import (
    ADAPTER_CARD,
    MODEL_CARD,
    Evidence,
    build_context,
    draw,
    gather,
    placeholder,
    render_card,
    validate,
)
from hubkit.errors import HubkitError, RefusedError
from hubkit.files import write_atomic, write_json
from hubkit.run import Finding, installed

if TYPE_CHECKING:
    from hubkit.cards import Rendered
    from hubkit.run import Artifact, Context

VERSION = 3
SHAPED_BY = ("hubkit", "huggingface_hub", "jinja2", "matplotlib")
NUMBERS = "numbers.json"


def check(ctx: Context) -> Iterable[Finding]:
    """Render both cards with placeholder numbers and validate them, before anything is trained."""
    if installed("matplotlib") is None:
        yield Finding("error", "The cards' pictures need matplotlib.", "pip install 'hubkit[train]'", 2)
    try:
        for name, card in _cards(ctx, _context(ctx, placeholder(ctx.recipe))).items():
            for problem in validate(card.text):
                yield Finding("error", f"{name} of {ctx.variant_name}: {problem}", "Mend the recipe's words.", 2)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def run(ctx: Context) -> Artifact:
    """Render both cards from the artifacts. RefusedError when one would not pass the Hub's rules."""
    ctx.report("reading the results", 0.0)
    context = _context(ctx, gather(ctx.inputs, ctx.variant_name or ""))
    cards = _cards(ctx, context)
    problems = [f"{name}: {problem}" for name, card in cards.items() for problem in validate(card.text)]
    if problems:
        raise RefusedError(
            f"The card of {ctx.variant_name} is not fit for the Hub: {' '.join(problems)}",
            hint="Mend the words in the recipe's `card`.",
        )
    for name, card in cards.items():
        write_atomic(ctx.out / name, card.text)
    ctx.report("drawing", 0.5)
    os.environ.setdefault("MPLCONFIGDIR", str(ctx.scratch))  # where matplotlib keeps its list of fonts
    for name, picture in draw(context).items():
        write_atomic(ctx.out / name, picture)
    write_json(
        ctx.out / NUMBERS,
        {name: [number.to_json() for number in card.numbers] for name, card in cards.items()},
    )
    count = sum(len(card.numbers) for card in cards.values())
    return ctx.artifact(figure=f"{count:,} numbers, each from a result file", numbers=count)


def _context(ctx: Context, evidence: Evidence) -> dict[str, Any]:
    return build_context(ctx.recipe, ctx.variant_name or "", evidence)


def _cards(ctx: Context, context: Mapping[str, Any]) -> dict[str, Rendered]:
    return {name: render_card(context, name) for name in (MODEL_CARD, ADAPTER_CARD)}
