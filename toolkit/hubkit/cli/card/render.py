"""`hubkit card render`: a card as the release would publish it."""

from __future__ import annotations

import click

from hubkit.cli.options import output_of, output_options, recipe_argument, recipe_hub_option
from hubkit.cli.recipes import find_recipe, last_state, need_variant
from hubkit.core.errors import UsageError

_DRAFT = "> **Draft.** Some measurements are missing: the numbers below are placeholders."


@click.command()
@recipe_argument
@click.option(
    "--variant", default="main", show_default=True, metavar="VARIANT", help="Render the card of this variant."
)
@click.option("--adapter", is_flag=True, help="Render the card of the adapter instead of the model.")
@click.option("--gguf", is_flag=True, help="Render the card of the GGUF files instead of the model.")
@click.option("--dataset", is_flag=True, help="Render the card of the held-out prompts instead of the model.")
@recipe_hub_option
@output_options
def render(recipe: str | None, variant: str, adapter: bool, gguf: bool, dataset: bool, hub_name: str | None) -> None:
    """Print the card of a variant, from the last run of RECIPE.

    If measurements are missing, the card is rendered with placeholders, and a note on standard error reports it.

    \b
    Example:
      hubkit card render tiny --variant dpo-v0
    """
    from hubkit.cards.evidence import gather
    from hubkit.cards.gguf import has_gguf_card
    from hubkit.cards.memory import keep_running
    from hubkit.cards.placeholder import placeholder
    from hubkit.cards.render import ADAPTER_CARD, GGUF_CARD, MODEL_CARD, own_templates, render_card
    from hubkit.cards.reported import keep
    from hubkit.cards.space_and_dataset_cards import dataset_card
    from hubkit.cards.template_context import build_context
    from hubkit.evals.reported import read_reported

    settings, folder = find_recipe(recipe)
    need_variant(settings, variant)
    if adapter and settings.published_form(variant) == "weights":
        raise UsageError(f"The variant {variant!r} has no adapter: its weights are published alone.")
    if gguf and not has_gguf_card(settings, variant):
        raise UsageError(
            f"The variant {variant!r} has no card of GGUF files.",
            hint="Ask for them with `gguf` in the recipe; with `place: folder` they are on the variant's own card.",
        )
    state = last_state(settings, folder, hub_name)
    job = next(job for job in state.jobs if job.id == f"card[{variant}]")
    output = output_of()
    measured = state.finished.keys() >= {*job.inputs}
    if not measured:
        output.warn("Some measurements are missing; the numbers on this card are placeholders.")
    evidence = placeholder(settings)
    if measured:
        inputs, card = state.context(job).inputs, state.finished.get(job.id)
        evidence = gather(inputs, variant)
        keep_running(inputs.merged, variant, evidence, card.path if card else None)
    keep(read_reported(folder, settings.evaluate.results), variant, evidence)
    if dataset:
        rendered = dataset_card(settings, evidence)
    else:
        kind = GGUF_CARD if gguf else ADAPTER_CARD if adapter else MODEL_CARD
        context = build_context(settings, variant, evidence)
        rendered = render_card(context, kind, own=own_templates(settings, folder))
    if output.mode == "json":
        numbers = [number.to_json() for number in rendered.numbers]
        output.result({"variant": variant, "measured": measured, "text": rendered.text, "numbers": numbers})
    else:
        head, fence, body = rendered.text.partition("\n---\n")
        output.text(rendered.text if measured else f"{head}{fence}\n{_DRAFT}\n{body}")
