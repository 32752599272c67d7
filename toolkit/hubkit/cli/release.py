"""`hubkit release`: the whole of it, in one command."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from hubkit.cli.common import (
    ask,
    confirm_option,
    find_recipe,
    find_target,
    hub_option,
    open_page,
    output_of,
    person_with_browser,
    speaks,
)
from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.output import megabytes, percent, table
from hubkit.hub.trusted_publishing import signed_in
from hubkit.pipeline.runner import Outcome
from hubkit.pipeline.runner import release as run_release


@click.command()
@click.argument("recipe", required=False)
@click.option("--fresh", is_flag=True, help="Begin a new run instead of going on with the last one.")
@click.option("--only", metavar="VARIANT", help="Publish this variant alone.")
@click.option(
    "--sign-key", type=click.Path(path_type=Path), metavar="FILE", help="Sign it with this EC private key (PEM)."
)
@click.option("--pr", "proposes", is_flag=True, help="Propose it by pull requests, to a repo of others.")
@click.option("--overwrite-card", is_flag=True, help="Publish over edits of the cards on the Hub that are in the way.")
@click.option("--open/--no-open", "opens", default=None, help="Open the model's page at the end, or do not.")
@confirm_option
@hub_option
@speaks
def release(
    recipe: str | None,
    fresh: bool,
    only: str | None,
    sign_key: Path | None,
    proposes: bool,
    overwrite_card: bool,
    opens: bool | None,
    yes: bool,
    hub_name: str | None,
) -> None:
    """Train, measure, gate and publish what RECIPE says.

    A plain re-run goes on where the last one stopped; a finished one does nothing. Before it publishes to another
    Hub than the embedded one, it asks the person at the terminal.

    \b
    hubkit release tiny                    on the embedded Hub, which it starts
    hubkit release                         ./hubkit.yaml, on the Hub that it names
    """
    found, folder = find_recipe(recipe)
    found = found.signed_with(sign_key) if sign_key else found
    found = found.proposed() if proposes else found
    if only is not None and only not in found.variants:
        raise UsageError(f"There is no variant {only!r}; the recipe has {', '.join(found.variants)}.")
    target = signed_in(find_target(hub_name, found), found.repo)
    if not target.embedded and os.isatty(0):
        does = "Propose pull requests for" if found.pull_request else "Publish"
        ask(f"{does} {found.repo} ({found.visibility}) to {target.endpoint}?", yes=yes)
    output = output_of()
    done = run_release(
        found, folder, target, hubkit_home(), output, fresh=fresh, only=only, overwrite_card=overwrite_card
    )
    output.result({**done.to_json(), "hub": target.endpoint}, *_shown(done, target.endpoint))
    if opens or (opens is None and output.mode == "human" and person_with_browser()):
        with contextlib.suppress(HubkitError):  # the release is done, whatever a browser says
            if link := open_page(target, done.page):
                output.say(f"There is no browser here to open {link}")


def _shown(done: Outcome, endpoint: str) -> list[RenderableType]:
    shown: list[RenderableType] = []
    if done.already:
        commits = ", ".join(f"{line.branch} at {line.commit[:12]}" for line in done.variants)
        word = "proposed" if any(line.pull_request for line in done.variants) else "released"
        shown += [Text(f"{done.repo} is already {word}: {commits}"), Text()]
    rows = [
        (
            line.variant,
            line.branch,
            line.commit[:12],
            *(_rate(line.stop_rates.get(form)) for form in ("merged", "adapter")),
            "passed" if line.passed else "erratum",
            _rate(line.average),
            megabytes(line.bytes),
        )
        for line in done.variants
    ]
    heads = ("variant", "branch", "commit", "stops: merged#", "adapter#", "gate", "scores#", "size#")
    shown.append(table(heads, rows))
    shown.append(
        Text(
            f"\nThe base stops in {percent(done.base_stop_rate)} of its answers, and scores {_rate(done.base_average)}."
        )
    )
    blocks = sum(line.blocks for line in done.variants)
    shown.append(Text(f"All {blocks} Python blocks on the cards ran against the staged commits."))
    shown.append(Text(f"To load it from another program, set HF_ENDPOINT={endpoint}\n"))
    shown += [
        Text(f"pull request for {line.variant}: {line.pull_request}") for line in done.variants if line.pull_request
    ]
    shown.append(Text(f"page   {done.page}"))
    if done.space:
        shown.append(Text(f"Space  {done.space}"))
    return shown


def _rate(share: float | None) -> str:
    return "not measured" if share is None else percent(share)
