"""`hubkit card run`: the Python code blocks of a card, run as a reader would run them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, place_argument, repo_not_path, revision_option
from hubkit.cli.targets import find_hub
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.numbers import duration, short_commit
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.cards.snippets import BlockResult, Card
    from hubkit.hub.client import Hub

_CARDS = ("README.md", "adapter/README.md")
"""The cards of a folder or a repo; the first is required."""


@click.command()
@place_argument("FILE|FOLDER|REPO")
@revision_option
@click.option("--trust", is_flag=True, help="Run the code even if others wrote it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Stop a block after this time.",
)
@click.option(
    "--memory", type=click.FloatRange(min=0.1), metavar="GB", help="Limit the memory of a block. Default: no limit."
)
@hub_option
@output_options
def run(what: str, revision: str, trust: bool, timeout: float, memory: float | None, hub_name: str | None) -> None:
    """Run every Python code block of a card.

    Each block runs in a process of its own, against the revision that it is pinned to. It gets none of your
    environment variables and its own home folder, but this is no sandbox: it can read your files and use the network.

    Code of others needs --trust: those of a repo outside your namespace and your organizations, those of a file or
    folder that was downloaded from a Hub, and those of a clone with a remote that is no repo of yours on the Hub that
    you name. They get no token except a read-only one of the embedded Hub, so somebody else's gated repo on another
    Hub cannot be run this way. Downloads go to a temporary folder (in TMPDIR).

    The exit code is 3 if a block fails.

    \b
    Examples:
      hubkit card run hubkit/tiny-hermes-dpo --revision dpo-v0
      hubkit card run ./README.md --hub huggingface
    """
    from hubkit.cards.snippets import Limits, extract, place_for, run_cards
    from hubkit.cards.snippets.pinned_revisions import texts
    from hubkit.cards.snippets.trust import path_stranger, repo_stranger

    path = Path(what)
    local = path.exists()
    if not local:
        repo_not_path(what, or_file=True)
    hub = find_hub(hub_name)
    # A card of a folder may be a link to somebody else's.
    places = [path, *(card for name in _CARDS if path.is_dir() and (card := path / name).exists())]
    if local:
        stranger = next((why for place in places if (why := path_stranger(place, hub))), None)
    else:
        stranger = repo_stranger(hub, what)
    if stranger and not trust:
        raise RefusedError(
            f"{what} is not your own: {stranger}. Its code blocks were not run.",
            hint="Review the code blocks, then pass --trust to run them. They can read your files and use the network.",
        )
    cards = _local(path) if local else _published(hub, what, revision)
    repos = [] if local else [what]
    if not stranger:
        repos += [text for card in cards for block in extract(card.text) for text in sorted(texts(block.source))]
    limits = Limits(timeout, int(memory * 1e9) if memory else None)
    output = output_of()
    with (
        tempfile.TemporaryDirectory(prefix="hubkit-card-", ignore_cleanup_errors=True) as folder,
        place_for(hub, Path(folder), repos, own=not stranger) as place,
    ):
        outcomes = run_cards(cards, place, limits, lambda words, share: output.say(f"{words} …"))
    passed = all(item.outcome != "failed" for item in outcomes)
    value = {"what": what, "passed": passed, "blocks": [item.to_json() for item in outcomes]}
    output.result(value, *_block_lines(outcomes))
    if not passed:
        sys.exit(3)


def _local(path: Path) -> list[Card]:
    from hubkit.cards.snippets import Card

    if path.is_file():
        return [Card(path.name, _read(path))]
    cards = [Card(name, _read(path / name)) for name in _CARDS if (path / name).is_file()]
    if not cards:
        raise UsageError(f"{path} has no README.md.", hint="Name a card, or a folder with one.")
    return cards


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", hint="A card is a text file in UTF-8.") from error


def _published(hub: Hub, repo: str, revision: str) -> list[Card]:
    """The cards of a repo. Where a block names ``revision``, it gets the commit that was read here."""
    from hubkit.cards.snippets import Card, Pin

    commit = hub.resolve(repo, revision)
    cards = []
    for name in _CARDS:
        content = hub.read_listed(repo, name, commit)
        if content is not None:
            cards.append(Card(name, content.decode("utf-8", "replace"), Pin(repo, revision, commit)))
    if not cards:
        raise UsageError(
            f"{repo} has no card (README.md) at {revision!r}.",
            hint=f"See `hubkit revisions list {repo}`.",
        )
    return cards


def _block_lines(outcomes: Sequence[BlockResult]) -> Iterator[RenderableType]:
    from rich.text import Text

    if not outcomes:
        yield "The card has no Python code block."
        return
    rows = [
        (
            item.card,
            str(item.line),
            short_commit(item.revision) if item.revision else "",
            item.outcome,
            duration(item.seconds),
            item.why,
        )
        for item in outcomes
    ]
    yield table(("card", "line", "revision", "outcome", "time", "why"), rows)
    for item in outcomes:
        if item.outcome == "failed" and item.output:
            yield Text(f"\n{item.card}, line {item.line}:", "red")
            yield Text(item.output)
