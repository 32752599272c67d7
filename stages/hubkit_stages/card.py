"""Write the cards of one variant from what all the steps measured.

Makes ``README.md`` (the branch's card), ``adapter-README.md`` (the adapter's), their pictures in ``assets/``,
``.eval_results/*.yaml`` (results for the Hub's leaderboards), ``comparisons.json`` (differences that are computed for
the card) and ``numbers.json``: for each card every number that stands on it, with the result file and the place in that
file from which it was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hubkit.cards import (
    Evidence,
    cards_of,
    draw,
    eval_results,
    eval_results_problems,
    gather,
    own_templates,
    placeholder,
    validate,
)
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import write_atomic, write_json
from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import counted
from hubkit.hub.client import connect
from hubkit.training.data.loading import card_licence

if TYPE_CHECKING:
    from hubkit.cards import Rendered
    from hubkit.recipe.stage import Artifact, Context

VERSION = 3
SHAPED_BY = ("hubkit", "huggingface_hub", "jinja2", "matplotlib")
NUMBERS = "numbers.json"


def check(ctx: Context) -> Iterable[Finding]:
    """Render both cards with placeholder numbers and validate them, before anything is trained."""
    if installed("matplotlib") is None:
        yield Finding("error", "The cards' pictures need matplotlib.", "pip install 'hubkit[train]'", 2)
    if ctx.recipe.license is None:
        yield from _licence(ctx)
    try:
        for name, card in _cards(ctx, placeholder(ctx.recipe))[1].items():
            for problem in validate(card.text):
                yield Finding("error", f"{name} of {ctx.variant_name}: {problem}", "Mend the recipe's words.", 2)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def _licence(ctx: Context) -> Iterable[Finding]:
    """An error when the base, whose licence the recipe leaves it to, is on the Hub and its card names none."""
    hub, base = connect(ctx.target), ctx.recipe.base
    if not hub.repo_exists(base.repo):
        return  # the step `provide` makes it, or the step `base` says that it is missing
    if not card_licence(hub, base.repo, hub.resolve(base.repo, base.revision), "model"):
        yield Finding(
            "error",
            f"Neither the recipe nor the card of {base.repo} names a license.",
            "Write `license:` in the recipe, as the base model's authors allow it.",
            2,
        )


def run(ctx: Context) -> Artifact:
    """Render both cards from the artifacts. RefusedError when one would not pass the Hub's rules."""
    ctx.report("reading the results", 0.0)
    evidence = gather(ctx.inputs, ctx.variant_name or "")
    context, cards = _cards(ctx, evidence)
    results = eval_results(ctx.variant_name or "", evidence)
    problems = [
        *(f"{name}: {problem}" for name, card in cards.items() for problem in validate(card.text)),
        *(f"{name}: {problem}" for name, (text, _) in results.items() for problem in eval_results_problems(text)),
    ]
    if problems:
        raise RefusedError(
            f"The card of {ctx.variant_name} is not fit for the Hub: {' '.join(problems)}",
            hint="Mend the words in the recipe's `card`.",
        )
    for name, card in cards.items():
        write_atomic(ctx.out / name, card.text)
    for name, (text, _) in results.items():
        write_atomic(ctx.out / name, text)
    ctx.report("drawing", 0.5)
    os.environ.setdefault("MPLCONFIGDIR", str(ctx.scratch))  # where matplotlib keeps its list of fonts
    for name, picture in draw(context).items():
        write_atomic(ctx.out / name, picture)
    for name, value in evidence.derived.get(ctx.step, {}).items():
        write_json(ctx.out / name, value)
    numbers = {name: card.numbers for name, card in cards.items()} | {
        name: tuple(listed) for name, (_, listed) in results.items()
    }
    write_json(
        ctx.out / NUMBERS,
        {name: [number.to_json() for number in listed] for name, listed in numbers.items()},
    )
    total = sum(len(listed) for listed in numbers.values())
    return ctx.artifact(figure=f"{counted(total, 'number')}, each from a result file", numbers=total)


def _cards(ctx: Context, evidence: Evidence) -> tuple[dict[str, Any], dict[str, Rendered]]:
    return cards_of(ctx.recipe, ctx.variant_name or "", evidence, own_templates(ctx.recipe, ctx.recipe_folder))
