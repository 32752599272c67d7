"""`hubkit card`: the cards, as text."""

from __future__ import annotations

import click

from hubkit.cards import (
    ADAPTER_CARD,
    MODEL_CARD,
    build_context,
    dataset_card,
    gather,
    own_templates,
    placeholder,
    render_card,
)
from hubkit.cli.card_lint import lint
from hubkit.cli.card_run import run
from hubkit.cli.common import find_recipe, hub_option, last_desk, output_of, speaks
from hubkit.cli.tables import tables_command
from hubkit.core.errors import UsageError
from hubkit.recipe.models import MAIN

_DRAFT = "> **Draft.** Nothing, or not everything, is measured yet: the numbers below are placeholders."


@click.group()
def card() -> None:
    """Render model cards from what was measured; look at anybody's, and run what they show."""


card.add_command(lint)
card.add_command(run)
card.add_command(tables_command)


@card.command()
@click.argument("recipe", required=False)
@click.option("--variant", default=MAIN, show_default=True, help="The branch whose card is rendered.")
@click.option("--adapter", is_flag=True, help="The adapter's card instead of the model's.")
@click.option("--dataset", is_flag=True, help="The card of the held-out prompts instead: data that was derived.")
@hub_option
@speaks
def render(recipe: str | None, variant: str, adapter: bool, dataset: bool, hub_name: str | None) -> None:
    """Print the card of a variant from the last run of RECIPE.

    What is not measured yet is filled with placeholders, and said so on standard error.

    \b
    hubkit card render tiny --variant dpo-v0
    """
    found, folder = find_recipe(recipe)
    if variant not in found.variants:
        raise UsageError(f"There is no variant {variant!r}; the recipe has {', '.join(found.variants)}.")
    desk = last_desk(found, folder, hub_name)
    job = next(job for job in desk.jobs if job.id == f"card[{variant}]")
    inputs = desk.context(job).inputs
    output = output_of()
    measured = len(inputs) == len(job.inputs)
    if not measured:
        output.warn("not everything is measured yet; the numbers on this card are placeholders.")
    evidence = gather(inputs, variant) if measured else placeholder(found)
    if dataset:
        rendered = dataset_card(found, evidence)
    else:
        which = ADAPTER_CARD if adapter else MODEL_CARD
        rendered = render_card(build_context(found, variant, evidence), which, own=own_templates(found, folder))
    if output.mode == "json":
        numbers = [number.to_json() for number in rendered.numbers]
        output.result({"variant": variant, "measured": measured, "text": rendered.text, "numbers": numbers})
    else:
        head, fence, body = rendered.text.partition("\n---\n")
        output.text(rendered.text if measured else f"{head}{fence}\n{_DRAFT}\n{body}")
