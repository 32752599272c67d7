"""`hubkit plan`: check a recipe, and show what its release would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.costs import bullets, cost_lines, note_lines
from hubkit.cli.options import output_of, output_options, recipe_argument, recipe_hub_option
from hubkit.cli.recipes import find_recipe_file, last_state
from hubkit.cli.targets import find_target
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import counted, duration, share, size
from hubkit.core.output import table
from hubkit.recipe.names import STAGING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.hub.client import Hub
    from hubkit.pipeline.costs.estimate import Estimate
    from hubkit.pipeline.jobs import Job
    from hubkit.pipeline.release_state import ReleaseState
    from hubkit.recipe.models import Recipe


_NOT_ASKED = (
    "what only the Hub knows: the files and chat template of the base, access to it and to the datasets, your token's "
    "rights; `hubkit release` checks them first",
    "the rows: whether they can be mapped, and keep their end-of-turn token; the step data checks them",
)


@click.command()
@recipe_argument
@recipe_hub_option
@output_options
def plan(recipe: str | None, hub_name: str | None) -> None:
    """Check a recipe, and show every step of its release.

    What would run is listed, and why where it ran before; then what it costs: estimated hours on this device and four
    GPUs, memory, disk and upload. Trainings of more than a minute that would be replaced are listed with what
    changed. Nothing is trained or sent to a Hub, and no network is needed. RECIPE is a file, a folder with a
    hubkit.yaml, or a built-in recipe.

    All mistakes in it are listed with their lines. TRL and PEFT check the training arguments if they are installed;
    this takes some seconds the first time, and again when arguments or libraries change. What cannot be checked is
    listed; `hubkit release` checks it before it trains.

    \b
    Examples:
      hubkit plan tiny
      hubkit plan dpopenhermes-7b
    """
    from rich.text import Text

    from hubkit.pipeline.costs.estimate import estimate
    from hubkit.pipeline.costs.room import free_bytes, room_findings
    from hubkit.pipeline.costs.sources import Finder
    from hubkit.pipeline.discards import discarded
    from hubkit.pipeline.recipe_checks import check_recipe
    from hubkit.recipe.mistakes import error_of

    file, output = find_recipe_file(recipe), output_of()
    settings = file.recipe
    hub = partial(_hub, settings, hub_name)

    def base_config() -> bytes | None:
        return Finder(last_state(settings, file.folder, hub_name), hub).config()

    checked = check_recipe(settings, file.folder, hubkit_home(), output.say, base_config)
    if checked.mistakes:
        raise error_of(checked.mistakes, file.places)
    for message in checked.warnings:
        output.warn(f"{file.places.of_message(message)}{message}")
    for message in checked.machine:
        output.warn(f"Cannot be trained on this machine: {file.places.of_message(message)}{message}")
    state = last_state(settings, file.folder, hub_name)
    costs = estimate(state, hubkit_home(), hub, output.say)
    everything_reused = len(state.finished) == len(state.jobs)
    unchecked = [*checked.unchecked, *([] if everything_reused else [*costs.missing, *_NOT_ASKED])]
    listed = _steps(state, costs)
    branches = [
        {**settings.place(name)._asdict(), "variant": name, "stage": variant.stage, "gate": variant.gate}
        | {"title": variant.title}
        for name, variant in ((name, settings.variants[name]) for name in settings.publishing_order())
    ]
    license = settings.license or "the license of its base"
    gated = f", gated: {settings.gated}" if settings.gated else ""
    where = f"{', '.join(reversed(settings.repos()))} ({settings.visibility}{gated}, {license}) on"
    where += f" {hub_name or settings.hub}"
    order, kind = _order(settings), "branches" if settings.layout == "branches" else "repos"
    shown: list[RenderableType] = [
        Text(where, "bold"),
        Text(f"Base {settings.base.repo}; {kind} are updated in this order: {order}.\n"),
        *_step_lines(state, listed),
        "",
        *cost_lines(costs, state.jobs, free_bytes(hubkit_home()), output.data.width),
        *note_lines(costs, unchecked, room_findings(costs, hubkit_home())),
    ]
    release = {
        "repo": settings.repo,
        "layout": settings.layout,
        "hub": hub_name or settings.hub,
        "branches": branches,
        "gguf": [
            {**place._asdict(), "variant": name}
            for name in settings.gguf_variants()
            if (place := settings.gguf_place(name))
        ],
        "steps": listed,
    }
    discards = discarded(state)
    for item in discards:
        output.warn(f"{item}. The release asks before it does that, and is refused without a terminal or --retrain.")
    lost = [item.to_json() for item in discards]
    output.result({**release, "discards": lost, "costs": costs.to_json(), "unchecked": unchecked}, *shown)


def _steps(state: ReleaseState, costs: Estimate) -> list[dict[str, Any]]:
    """The steps as plain values."""
    listed: list[dict[str, Any]] = []
    for job in state.jobs:
        artifact = state.finished.get(job.id)
        listed.append(
            {
                "step": job.id,
                "stage": job.stage,
                "does": _does(job, state.recipe) + _launched(job, state),
                "kept": artifact is not None,
                "why": state.reusable_artifact(job)[1],
                "bytes": artifact.manifest.size if artifact else None,
                "seconds": artifact.seconds if artifact else None,
                "cost": costs.step_json(job.id),
            }
        )
    return listed


_OBVIOUS = ("not run yet", "needs an earlier step", "reused")
"""Reasons that the table of the steps shows already: it says which run."""


def _step_lines(state: ReleaseState, listed: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    """What runs, a line for each kind of step; what is up to date; and the reasons that are not obvious."""
    kept, runs = [item for item in listed if item["kept"]], [item for item in listed if not item["kept"]]
    groups: dict[str, list[dict[str, Any]]] = {}
    for job, item in zip(state.jobs, listed, strict=True):
        if not item["kept"]:
            groups.setdefault(job.id if job.stage_name else job.step.name, []).append(item)
    if groups:
        yield f"{len(runs)} of {counted(len(listed), 'step')} to run:\n"
        rows = [
            (name if len(group) == 1 else f"{name} ({len(group)})", _together([item["does"] for item in group]))
            for name, group in groups.items()
        ]
        yield table(("step", "what it does"), rows)
    if kept:
        used = f"{duration(sum(item['seconds'] for item in kept))}, {size(sum(item['bytes'] for item in kept))}"
        names = ", ".join(item["step"] for item in kept)
        before = "\n" if groups else ""
        yield f"{before}{len(kept)} of {counted(len(listed), 'step')} up to date ({used}): {names}"
    if reasons := [f"{item['step']}: {item['why']}" for item in listed if item["why"] not in _OBVIOUS]:
        yield "\nWhy:"
        yield bullets(reasons)


def _together(does: Sequence[str]) -> str:
    """What steps of one kind do; what differs between them is listed in the parentheses at the end."""
    if len(does) == 1:
        return does[0]
    heads = dict.fromkeys(item.partition(" (")[0] for item in does)
    tails = dict.fromkeys(item.partition(" (")[2].removesuffix(")") for item in does)
    if len(heads) > 1:
        return "; ".join(dict.fromkeys(does))
    return f"{next(iter(heads))} ({', '.join(tails)})" if any(tails) else does[0]


def _hub(recipe: Recipe, hub_name: str | None) -> Hub:
    """The Hub of the recipe, for sizes that this machine does not have. HubkitError when it cannot be asked now."""
    target = find_target(hub_name, recipe, start=False)
    from hubkit.hub.client import connect
    from hubkit.hub.reach import reach

    reach(target.endpoint)
    return connect(target)


def _launched(job: Job, state: ReleaseState) -> str:
    """In how many processes the step trains; nothing for one that is not launched."""
    if job.stage_name is None:
        return ""
    from hubkit.training.launching.launch import Launching, global_batch

    launching = Launching.of(state.recipe.launch_of(job.stage_name), state.folder)
    if launching is None:
        return ""
    stage = state.recipe.stages[job.stage_name]
    rows = global_batch(stage.args, stage.batch_size, launching)
    return f", {launching.in_words()}" + (f", {counted(rows, 'row')} a step" if rows else "")


def _does(job: Job, recipe: Recipe) -> str:
    """What the step does, with its settings in the recipe."""

    if job.stage_name is not None:
        return _trains(job, recipe)
    rate = recipe.gates.stop_rate
    enforced = [name for name, variant in recipe.variants.items() if variant.gate == "enforce"]
    more = {
        "stopping": f"{counted(rate.prompts, 'prompt')}, {counted(rate.max_new_tokens, 'new token')}" if rate else None,
        "evaluate": ", ".join(recipe.evaluate.suites),
        "gguf": _gguf(recipe),
        "readers": ", ".join(recipe.readers),
        "gate": f"{_gates(recipe)}; enforced for {', '.join(enforced) or 'none'}",
        "publish": _staging(job, recipe),
        "publish_gguf": _gguf_staging(job, recipe),
        "collection": recipe.collection.title if recipe.collection else None,
        "space": recipe.space.repo if recipe.space else None,
        "new_version": ", ".join(recipe.card.replaces),
    }.get(job.stage)
    does = job.step.does
    if job.variant_name is not None and recipe.published_form(job.variant_name) == "weights":
        does = _OF_WEIGHTS.get(job.step.name, does)
    return f"{does} ({more})" if more else does


_OF_WEIGHTS = {
    "merge": "write the trained weights in the published dtype",
    "stopping": "measure the stop rate of the weights",
    "evaluate": "run the benchmarks on the weights",
    "loadback": "load the staged commit back; check the gates",
}
"""What steps do for a variant without an adapter."""


def _order(recipe: Recipe) -> str:
    """The places in the order in which they are updated: those of GGUF files, then the variants."""
    branches = recipe.layout == "branches"
    gguf = [
        f"{place.branch if place.repo == recipe.repo else place.repo} (GGUF files of {name})"
        for name in recipe.gguf_variants()
        if (place := recipe.gguf_place(name)) not in (None, recipe.place(name))
    ]
    variants = [
        f"{name if branches else recipe.place(name).repo} (adapter of stage {recipe.variants[name].stage})"
        for name in recipe.publishing_order()
    ]
    return ", then ".join([*gguf, *variants])


def _staging(job: Job, recipe: Recipe) -> str | None:
    """The branch to which a variant is uploaded."""
    if job.variant_name is None:
        return None
    place = recipe.place(job.variant_name)
    branch = f"{STAGING}/{place.branch}"
    return branch if recipe.layout == "branches" else f"{place.repo}, {branch}"


def _gguf_staging(job: Job, recipe: Recipe) -> str | None:
    """The branch to which the GGUF files of a variant are uploaded."""
    place = recipe.gguf_place(job.variant_name or "")
    if place is None:
        return None
    branch = f"{STAGING}/{place.branch}"
    return branch if place.repo == recipe.repo else f"{place.repo}, {branch}"


def _gguf(recipe: Recipe) -> str | None:
    """The types of the GGUF files, and how many prompts they are asked."""
    asked, rate = recipe.gguf, recipe.gates.stop_rate
    if asked is None:
        return None
    types = " and ".join(kind.upper() for kind in asked.types)
    prompts = [counted(asked.prompts or rate.prompts, "prompt")] if rate else []
    return ", ".join([types, *prompts, *asked.benchmarks])


def _gates(recipe: Recipe) -> str:
    """The conditions, as the recipe writes them."""
    rate = recipe.gates.stop_rate
    least = share(rate.at_least) if rate and isinstance(rate.at_least, float) else rate and rate.at_least
    rates = [f"stop rate at least {least}"] if rate else []
    return "; ".join(
        [*rates, *(f"{name} at least {' and '.join(limits)}" for name, limits in recipe.gates.benchmarks.items())]
    )


def _trains(job: Job, recipe: Recipe) -> str:
    stage = recipe.stages[job.stage_name or ""]
    if stage.adopted is not None:
        return f"take {'the weights' if stage.weights else 'the adapter'} in {stage.adopted}; nothing is trained"
    kept = recipe.form(stage.continues) if stage.continues else "adapter"
    after = f", continuing {stage.continues}'s {kept}" if stage.continues else ""
    sources = " + ".join(
        source.name + (f" ({counted(source.rows, 'row')})" if source.rows else "")
        for source in recipe.sources(job.stage_name or "")
    )
    quantized = "" if stage.quantization == "none" else f", {stage.quantization.upper()} base"
    full = ", all weights" if stage.trains_all_weights else ""
    return f"{job.stage.upper()} on {sources}{after}{full}{quantized}"
