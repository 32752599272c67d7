"""Write the cards of one variant from what all the steps measured.

Makes ``README.md`` (the branch's card), ``adapter-README.md`` (the adapter's) and ``numbers.json``: for each card every
number that stands on it, with the result file and the place in that file from which it was read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hubkit.cards import (
    ADAPTER_CARD,
    MODEL_CARD,
    Evidence,
    build_context,
    gather,
    placeholder,
    render_card,
    validate,
)
from hubkit.errors import HubkitError, RefusedError
from hubkit.files import write_atomic, write_json
from hubkit.run import Finding

if TYPE_CHECKING:
    from hubkit.cards import Rendered
    from hubkit.run import Artifact, Context

VERSION = 2
SHAPED_BY = ("hubkit", "huggingface_hub", "jinja2")
NUMBERS = "numbers.json"


def check(ctx: Context) -> Iterable[Finding]:
    """Render both cards with placeholder numbers and validate them, before anything is trained."""
    try:
        for name, card in _cards(ctx, placeholder(ctx.recipe)).items():
            for problem in validate(card.text):
                yield Finding("error", f"{name} of {ctx.variant_name}: {problem}", "Mend the recipe's words.", 2)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def run(ctx: Context) -> Artifact:
    """Render both cards from the artifacts. RefusedError when one would not pass the Hub's rules."""
    ctx.report("reading the results", 0.0)
    cards = _cards(ctx, gather(ctx.inputs, ctx.variant_name or ""))
    problems = [f"{name}: {problem}" for name, card in cards.items() for problem in validate(card.text)]
    if problems:
        raise RefusedError(
            f"The card of {ctx.variant_name} is not fit for the Hub: {' '.join(problems)}",
            hint="Mend the words in the recipe's `card`.",
        )
    for name, card in cards.items():
        write_atomic(ctx.out / name, card.text)
    write_json(
        ctx.out / NUMBERS,
        {name: [number.to_json() for number in card.numbers] for name, card in cards.items()},
    )
    count = sum(len(card.numbers) for card in cards.values())
    return ctx.artifact(figure=f"{count:,} numbers, each from a result file", numbers=count)


def _cards(ctx: Context, evidence: Evidence) -> dict[str, Rendered]:
    context = build_context(ctx.recipe, ctx.variant_name or "", evidence)
    return {name: render_card(context, name) for name in (MODEL_CARD, ADAPTER_CARD)}
