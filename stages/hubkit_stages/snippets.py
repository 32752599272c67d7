"""Run every Python block of a variant's cards against the staged commit, before any branch is moved.

The cards are those that the Hub holds, and each block is run as a reader would: by itself, in an empty folder, with
nothing of this machine's environment (:mod:`hubkit.cards.snippets`). The branch that a block names does not hold the
release yet, so the literal is exchanged for the commit; a block that names the repo and no such revision would show the
reader another variant than the card is about, and is refused.

Makes: ``snippets.json`` {commit, blocks: [{card, block, line, outcome, seconds, why, revision, output}]}.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from hubkit.cards import ADAPTER_CARD, MODEL_CARD, build_context, own_templates, placeholder, render_card
from hubkit.cards.lint import lint_text
from hubkit.cards.snippets import Card, Limits, Pin, Place, extract, place_for, run_cards
from hubkit.cards.snippets.blocks import Imports
from hubkit.cards.snippets.owners import repo_stranger
from hubkit.core import numbers
from hubkit.core.errors import ConflictError, HubkitError, RefusedError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.hub.client import Hub, connect
from hubkit.hub.private_api import cached_repo
from hubkit.publishing.manifest import CARDS, GENERATED
from hubkit.recipe.stage import Artifact, Context

VERSION = 1
SHAPED_BY = ("huggingface_hub", "openai", "peft", "torch", "transformers")
LIMITS = Limits(seconds=3600.0)
"""Of each block: it may have to fetch the weights of a large model, and to answer on a processor."""


CANNOT_RUN = frozenset({"snippet-syntax", "undefined-name"})
"""Rules of lint whose breach ends a block."""


def check(ctx: Context) -> Iterable[Finding]:
    """What cards with placeholder numbers show already: blocks that cannot run, and what is not installed here."""
    imports = Imports()
    try:
        context = build_context(ctx.recipe, ctx.variant_name or "", placeholder(ctx.recipe))
        own = own_templates(ctx.recipe, ctx.recipe_folder)
        texts = {name: render_card(context, name, own=own).text for name in (MODEL_CARD, ADAPTER_CARD)}
    except HubkitError:
        return  # the stage that writes the cards says it
    for name, text in texts.items():
        for fault in lint_text(text):
            if fault.rule in CANNOT_RUN:
                yield Finding("error", f"{name} of {ctx.variant_name}, line {fault.line}: {fault.what}", fault.todo, 2)
        for block in extract(text):
            imports.add(block.source)
    for name in sorted(imports.roots):
        if find_spec(name) is None:
            yield Finding(
                "error",
                f"A Python block of the cards imports {name}, which is not installed: it could not be run.",
                "pip install 'hubkit[card]'",
                2,
            )


def run(ctx: Context) -> Artifact:
    """Run the blocks. RefusedError when one does not pass."""
    hub, published = connect(ctx.target), ctx.input("publish").json("published.json")
    repo, commit = str(published["repo"]), str(published["commit"])
    pin = Pin(repo, ctx.variant_name or "", commit)
    # Of a repo of others the blocks that this release wrote are run, and not what its owner has edited on the cards.
    ours = hub.target.embedded or hub.target.trusted or repo_stranger(hub, repo) is None
    cards = [
        Card(path, _text(hub, repo, path if ours else f"{GENERATED}/{name}", commit), pin, strict=True)
        for name, path in _cards(ctx)
    ]
    base = str(ctx.input("base").json("base.json")["repo"])
    folder = ctx.scratch / "cards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _lend(base, folder)
    try:
        with place_for(hub, folder, [repo, base]) as place:
            outcomes = run_cards(cards, place, LIMITS, ctx.report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(ctx.out / "snippets.json", {"commit": commit, "blocks": [item.to_json() for item in outcomes]})
    bad = [item for item in outcomes if item.outcome != "passed"]
    if bad:
        ctx.run.log("snippets-failed", step=ctx.step, blocks=[item.to_json() for item in bad])
        told = "; ".join(f"{item.card} line {item.line}: {item.why}" for item in bad[:3])
        raise RefusedError(
            f"{len(bad)} of the {len(outcomes)} Python blocks on the cards of {ctx.variant_name} did not run: {told}",
            hint="Nothing was promoted. Mend the card's template or the recipe's words; the run's journal has the "
            "output of each block.",
        )
    ran = len(outcomes)
    return ctx.artifact(figure=f"{ran} of {numbers.counted(ran, 'block')} ran", blocks=ran)


def _lend(base: str, folder: Path) -> None:
    """Let the blocks find the base where the release has it already: the adapter's block would fetch it once more."""
    held, cache = cached_repo(base), Place("", folder).cache
    if held.is_dir():
        cache.mkdir(parents=True)
        (cache / held.name).symlink_to(held.resolve(), target_is_directory=True)


def _cards(ctx: Context) -> list[tuple[str, str]]:
    """The cards of the bundle: (name of the generated copy, path)."""
    held = {item["path"] for item in ctx.input("publish").json("bundle.json")["files"]}
    return [(name, path) for name, path in CARDS.items() if path in held]


def _text(hub: Hub, repo: str, path: str, commit: str) -> str:
    """A card as the Hub holds it."""
    content = hub.read_file(repo, path, commit)
    if content is None:
        raise ConflictError(f"{repo} has no {path} at {commit[:12]}, where it was verified.", hint="Run it again.")
    return content.decode("utf-8")
