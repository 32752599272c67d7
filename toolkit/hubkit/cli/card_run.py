"""`hubkit card run`: the Python blocks of a card, run as a reader would run them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from hubkit.cards.snippets import Card, Limits, Outcome, Pin, extract, place_for, run_cards
from hubkit.cards.snippets.owners import path_stranger, repo_stranger
from hubkit.cards.snippets.pins import texts
from hubkit.cli.common import card_repo, find_target, hub_option, output_of, speaks
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.output import duration, table
from hubkit.hub.client import Hub, connect

CARDS = ("README.md", "adapter/README.md")
"""Where cards lie in a folder or a repo; the first has to be there."""
_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@click.command()
@click.argument("what", metavar="FILE|FOLDER|REPO")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of a repo.")
@click.option("--trust", is_flag=True, help="Run code that is not your own.")
@click.option("--timeout", type=click.FloatRange(min=1), default=1800, show_default=True, help="Seconds for a block.")
@click.option("--memory", type=click.FloatRange(min=0.1), help="GB for a block; else as much as the machine has.")
@hub_option
@speaks
def run(what: str, revision: str, trust: bool, timeout: float, memory: float | None, hub_name: str | None) -> None:
    """Run every Python block of a card in a process of its own, against the revision that it is pinned to.

    The blocks get none of your environment and a home of their own, but limits are no sandbox: they can read your files
    and reach the network. Somebody else's need --trust: a repo outside your namespace and your organisations, and a
    file or folder that was downloaded from a Hub. Such blocks get no token but one of the embedded Hub that may only
    read, so somebody else's gated repo elsewhere cannot be run this way. What blocks download goes to a temporary
    folder (TMPDIR says where).
    Exit code 3 when a block does not pass.

    \b
    hubkit card run hubkit/tiny-hermes-dpo --revision dpo-v0
    hubkit card run ./README.md --hub huggingface
    """
    path = Path(what)
    local = path.exists()
    if not local:
        card_repo(what)
    hub = connect(find_target(hub_name))
    stranger = path_stranger(path, hub) if local else repo_stranger(hub, what)
    if stranger and not trust:
        raise RefusedError(
            f"{what} is not your own: {stranger}. Its blocks were not run.",
            hint="Read them, and give --trust to run them. Limits are no sandbox.",
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
    said = {"what": what, "passed": passed, "blocks": [item.to_json() for item in outcomes]}
    output.result(said, *_shown(outcomes))
    if not passed:
        sys.exit(3)


def _local(path: Path) -> list[Card]:
    found = [path] if path.is_file() else [path / name for name in CARDS if (path / name).is_file()]
    if not found:
        raise UsageError(f"{path} has no README.md.", hint="Name a card, or a folder that holds one.")
    return [Card(item.name if path.is_file() else item.relative_to(path).as_posix(), _read(item)) for item in found]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", hint="A card is a text file in UTF-8.") from error


def _published(hub: Hub, repo: str, revision: str) -> list[Card]:
    """The cards of a repo; where a block names the revision itself, it means the commit that was read here."""
    commit = hub.resolve(repo, revision)
    found = []
    for name in CARDS:
        content = hub.read_file(repo, name, commit)
        if content is not None:
            found.append(Card(name, content.decode("utf-8", "replace"), Pin(repo, revision, commit)))
    if not found:
        raise UsageError(f"{repo} has no card (README.md) at {revision!r}.")
    return found


def _shown(outcomes: Sequence[Outcome]) -> list[RenderableType]:
    if not outcomes:
        return [Text("There is no Python block on the card.")]
    rows = [
        (item.card, str(item.line), (item.revision or "")[:12], item.outcome, duration(item.seconds), item.why)
        for item in outcomes
    ]
    shown: list[RenderableType] = [table(("card", "line", "revision", "outcome", "time", "why"), rows)]
    for item in outcomes:
        if item.outcome == "failed" and item.output:
            shown += [Text(f"\n{item.card}, line {item.line}:", _COLOURS["failed"]), Text(item.output)]
    return shown
