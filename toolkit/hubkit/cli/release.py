"""`hubkit release`: a complete release in one command."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.adopting import Adopted, adopt_options, write_adopted_recipe
from hubkit.cli.options import ask, confirm_option, output_of, output_options, recipe_argument, recipe_hub_option
from hubkit.cli.recipes import find_recipe_file, need_variant
from hubkit.cli.targets import find_target, open_page, person_with_browser
from hubkit.core.errors import HubkitError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import counted, duration, share, short_commit, size
from hubkit.core.output import table
from hubkit.core.target import DEFAULT_ENDPOINT

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from hubkit.core.target import Target
    from hubkit.pipeline.discards import Discard
    from hubkit.pipeline.outcome import GgufOutcome, Outcome, VariantOutcome
    from hubkit.recipe.models import Recipe


@click.command()
@recipe_argument
@click.option("--fresh", is_flag=True, help="Start a new run instead of resuming the last one.")
@click.option(
    "--only",
    metavar="VARIANT",
    help="Publish this variant only; the others are still trained and measured. No Space is deployed.",
)
@click.option(
    "--sign-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sign the release with this EC private key (PEM).",
)
@click.option("--pr", "proposes", is_flag=True, help="Open pull requests instead of writing to the repo.")
@click.option(
    "--retrain",
    is_flag=True,
    help="Train again what the recipe, its data or an upgrade changed, without asking. What is replaced is kept.",
)
@click.option("--overwrite-card", is_flag=True, help="Replace cards that were edited on the Hub, edits included.")
@click.option("--thorough", is_flag=True, help="Prove every number of the merged weights, not a sample of each tensor.")
@click.option(
    "--open/--no-open",
    "opens",
    default=None,
    help="Open the model's page when the release is done. Default: only at a terminal with a display.",
)
@adopt_options
@confirm_option
@recipe_hub_option
@output_options
def release(
    recipe: str | None,
    fresh: bool,
    only: str | None,
    sign_key: Path | None,
    proposes: bool,
    retrain: bool,
    overwrite_card: bool,
    thorough: bool,
    opens: bool | None,
    yes: bool,
    hub_name: str | None,
    **adopted: Any,
) -> None:
    """Train, measure, gate and publish a model from a recipe.

    RECIPE is a file, a folder with a hubkit.yaml, or a built-in recipe; ./hubkit.yaml if left out. Run the command
    again to resume an interrupted release; if it is already finished, nothing is done. Before anything is
    published to a Hub other than the embedded one, you are asked for confirmation. You are also asked before a
    training of more than a minute is replaced; without a terminal the release is refused then (exit code 3), unless
    --retrain is given.

    An adapter or a whole model that was trained elsewhere is released with --adapter or --weights: the recipe is
    written to ./hubkit.yaml and shown first. Nothing is trained.

    \b
    Examples:
      hubkit release tiny        on the embedded Hub, which it starts
      hubkit release             ./hubkit.yaml, on the Hub that it names
      hubkit release --adapter ./out --base HuggingFaceTB/SmolLM2-135M-Instruct --to me/my-model
    """
    from hubkit.hub.trusted_publishing import signed_in
    from hubkit.pipeline.runner import release as run_release

    if (options := Adopted(**adopted)).given:
        write_adopted_recipe(options, hub_name, recipe)
    file = find_recipe_file(recipe)
    settings = file.recipe
    settings = settings.signed_with(sign_key) if sign_key else settings
    settings = settings.proposed() if proposes else settings
    if only is not None:
        need_variant(settings, only)
    target = signed_in(find_target(hub_name, settings), settings.repo)
    _confirm(settings, target, yes)
    output = output_of()
    began = time.monotonic()
    outcome = run_release(
        settings,
        file.folder,
        target,
        hubkit_home(),
        output,
        fresh=fresh,
        only=only,
        overwrite_card=overwrite_card,
        thorough=thorough,
        places=file.places,
        retrain=retrain,
        consent=lambda found: _consent(found, yes),
    )
    output.result({**outcome.to_json(), "hub": target.endpoint}, *_release_lines(outcome, target.endpoint))
    output.say(f"\n{'Checked' if outcome.up_to_date else 'Released'} in {duration(time.monotonic() - began)}.")
    if opens or (opens is None and output.mode == "human" and person_with_browser()):
        with contextlib.suppress(HubkitError):  # the release is done, whether or not a browser opens
            if link := open_page(target, outcome.page):
                output.say(f"No browser available. Open {link}")


def _confirm(settings: Recipe, target: Target, yes: bool) -> None:
    """Ask the person at the terminal, unless it goes to the embedded Hub."""
    if not target.embedded and os.isatty(0):
        does = "Open pull requests for" if settings.pull_request else "Publish"
        repos = " and ".join(reversed(settings.repos()))
        ask(f"{does} {repos} ({settings.visibility}) on {target.endpoint}?", yes=yes)


def _consent(found: Sequence[Discard], yes: bool) -> None:
    """Ask the person at the terminal whether trainings may be replaced. Elsewhere, and with ``-y``, they may not."""
    from hubkit.pipeline.discards import refuse

    if yes or not os.isatty(0):
        refuse(found)
    ask("\n".join([*map(str, found), "Train again? What is there now is kept (`hubkit runs`)."]), yes=False)


def _release_lines(outcome: Outcome, endpoint: str) -> Iterator[RenderableType]:
    """The result: what each branch is at, what was measured of it and of the base, and where everything is."""
    if outcome.up_to_date:
        commits = ", ".join(f"{line.variant} at {short_commit(line.commit)}" for line in outcome.variants)
        yield f"{outcome.repo} is up to date: {commits}\n"
    yield from _measured(outcome)
    blocks = sum(line.blocks for line in outcome.variants)
    yield f"\n{counted(blocks, 'Python code block')} on the cards ran against the staged commits."
    places = [(f"pull request for {line.variant}", line.pull_request) for line in outcome.variants]
    places += [("page", outcome.page), ("Space", outcome.space), ("collection", outcome.collection)]
    places += [("GGUF", f"{item.page} ({_gguf_files(item)})") for item in outcome.gguf]
    places += [("replaces", ", ".join(outcome.replaced) or None)]
    yield from (f"{name:<12}{address}" for name, address in places if address)
    if endpoint != DEFAULT_ENDPOINT:
        yield f"To load the model from another program, set HF_ENDPOINT={endpoint}"


def _gguf_files(item: GgufOutcome) -> str:
    """'F16 stops 100.0 %, Q8_0 not measured; 1.6 MB'."""
    kinds = (
        f"{kind.upper()} {'not measured' if rate is None else f'stops {share(rate)}'}"
        for kind, rate in item.stop_rates.items()
    )
    return f"{', '.join(kinds)}; {size(item.bytes)}"


def _measured(outcome: Outcome) -> Iterator[RenderableType]:
    """A column for the base and each variant; as many tables as the terminal's width needs."""
    columns = [("base", {"stops, merged": share(outcome.base_stop_rate), "benchmarks": share(outcome.base_average)})]
    several = len({line.repo for line in outcome.variants}) > 1
    columns += [(line.variant, _facts(line, several)) for line in outcome.variants]
    names = list(columns[-1][1])
    for place, group in enumerate(_fitting(columns, output_of().data.width - max(map(len, names)) - 1)):
        if place:
            yield ""
        rows = [(name, *(_cell(name, facts.get(name, "")) for _, facts in group)) for name in names]
        yield table(("", *(f"{title}#" for title, _ in group)), rows)


def _facts(line: VariantOutcome, several_repos: bool) -> dict[str, str]:
    """What the result says of a variant, by name."""
    adapter = "no adapter" if line.stop_rates.keys() == {"merged"} else share(line.stop_rates.get("adapter"))
    return {
        "repo" if several_repos else "branch": line.repo if several_repos else line.branch,
        "commit": short_commit(line.commit),
        "stops, merged": share(line.stop_rates.get("merged")),
        "stops, adapter": adapter,
        "gate": line.gate or "none",
        "benchmarks": share(line.average),
        "size": size(line.bytes),
    }


_Column = tuple[str, dict[str, str]]


def _fitting(columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """``columns`` in groups that fit ``width``; each has one column at least."""
    group: list[_Column] = []
    left = width
    for column in columns:
        needed = 2 + max(map(len, (column[0], *column[1].values())))
        if group and needed > left:
            yield group
            group, left = [], width
        group.append(column)
        left -= needed
    yield group


_COLORS = {"passed": "green", "failed": "red", "failed (reported)": "yellow"}


def _cell(name: str, value: str) -> str | Text:
    """``value`` of the row ``name``; in color where it is the result of the gate."""
    if name != "gate" or value not in _COLORS:
        return value
    from rich.text import Text

    return Text(value, _COLORS[value])
