"""Run every Python code block of a variant's cards against the staged commit, before any branch is moved.

The cards are read from the Hub, and each block is run as a reader would run it: by itself, in an empty folder, with
nothing of this machine's environment (:mod:`hubkit.cards.snippets`). The branch that a block names does not hold the
release yet, so the literal is exchanged for the commit; a block that names the repo and no such revision would show the
reader another variant than the card is about, and is refused.

A block for llama-cpp-python is skipped where the card says that it was not run, as that is not installed. The card of
the GGUF files is read from where these are staged.

The load-back has shown that a stranger's download of this commit has the bytes of the release. So the blocks find its
large files in their cache already, as links to this machine's own, once these have been hashed; and the base, too.

Writes ``snippets.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from hubkit.cards.gguf import NOT_RUN
from hubkit.cards.lint import lint_text
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import GGUF_CARD, MODEL_CARD, render_card, template_of
from hubkit.cards.snippets import Card, Limits, Pin, Place, extract, place_for, run_cards
from hubkit.cards.snippets.blocks import Imports
from hubkit.cards.snippets.results import SnippetResults
from hubkit.cards.snippets.runs import SAID_SO
from hubkit.cards.snippets.trust import repo_stranger
from hubkit.cards.template_context import build_context, card_names
from hubkit.core import numbers
from hubkit.core.errors import ConflictError, HubkitError, RefusedError
from hubkit.core.files import digests
from hubkit.core.findings import Finding
from hubkit.hub.client import Hub, connect
from hubkit.hub.private_api import cached_repo
from hubkit.models.base import PinnedBase
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.load_back import LoadBack
from hubkit.publishing.manifest import CARDS, GENERATED
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Place as RecipePlace
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter

VERSION = 3
SHAPED_BY = ("huggingface_hub", "openai", "peft", "torch", "transformers")
LIMITS = Limits(seconds=3600.0)
"""Of each block: it may have to fetch the weights of a large model, and to answer on a processor."""


CANNOT_RUN = frozenset({"snippet-syntax", "undefined-name"})
"""Rules of lint whose breach ends a block."""


OPTIONAL = frozenset({"llama_cpp"})
"""Modules without which a release goes on: a card says so of the blocks that import them."""


@dataclass(frozen=True)
class Settings:
    """All of the recipe but the Hub: cards are rendered from it in preflight. ``template`` is its own card template."""

    recipe: Recipe
    variant: str
    template: NamedFile | None

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        named = recipe.card.template
        template = NamedFile.beside(scope.recipe_folder, named) if named is not None else None
        return cls(recipe.for_any_hub(), scope.published, template)


@dataclass(frozen=True)
class Inputs:
    """The staged commit with the cards, the base, and what came back of the commit: it loads before blocks run."""

    base: PinnedBase
    staged: StagedCommit
    loaded_back: LoadBack
    merged: MergedWeights
    adapter: TrainedAdapter
    gguf: StagedCommit | None = field(metadata={"later": True})
    """The staged commit of the GGUF files; None where there are none, or in the variant's own."""


Output = SnippetResults


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """What cards with placeholder numbers show already: blocks that cannot run, and what is not installed here."""
    settings, imports = ctx.settings, Imports()
    try:
        context = build_context(settings.recipe, settings.variant, placeholder(settings.recipe))
        own = template_of(settings.recipe, settings.template.path) if settings.template else None
        texts = {
            name: render_card(context, name, own=own).text for name in card_names(settings.recipe, settings.variant)
        }
    except HubkitError:
        return  # the stage that writes the cards reports it
    for name, text in texts.items():
        for item in lint_text(text):
            if item.rule in CANNOT_RUN:
                message = f"{name} of {settings.variant}, line {item.line}: {item.message}"
                yield Finding("error", message, item.hint, 2, item.rule, name, item.line)
        for block in extract(text):
            imports.add(block.source)
    for name in sorted(imports.roots):
        if name not in OPTIONAL and find_spec(name) is None:
            yield Finding(
                "error",
                f"A Python code block on the cards imports {name}; install it so that the block can be tested.",
                "pip install 'hubkit[card]'",
                2,
            )


def run(ctx: Context[Settings, Inputs]) -> StageResult[SnippetResults]:
    """Run the blocks. RefusedError when one does not pass."""
    hub, staged, variant = connect(ctx.target), ctx.inputs.staged, ctx.settings.variant
    repo, commit, recipe, gguf = staged.repo, staged.commit, ctx.settings.recipe, ctx.inputs.gguf
    cards = [_card(hub, staged, name, path, recipe.place(variant)) for name, path in _cards(staged)]
    if gguf is not None and (where := recipe.gguf_place(variant)):
        cards.append(replace(_card(hub, gguf, MODEL_CARD, MODEL_CARD, where), path=GGUF_CARD))
    base = ctx.inputs.base.repo
    folder = ctx.scratch / "cards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _lend(base, folder)
    _lend_release(ctx, folder)
    try:
        with place_for(hub, folder, [repo, base, *([gguf.repo] if gguf else [])]) as place:
            outcomes = run_cards(cards, place, LIMITS, ctx.report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = SnippetResults(commit=commit, blocks=tuple(outcomes))
    bad = [item for item in results.blocks if item.outcome != "passed" and item.why != SAID_SO]
    if bad:
        ctx.note("snippets-failed", blocks=[vars(item) for item in bad])
        shown = "; ".join(f"{item.card} line {item.line}: {item.why}" for item in bad[:3])
        raise RefusedError(
            f"{len(bad)} of {len(outcomes)} Python code blocks on the cards of {variant} failed: {shown}",
            hint="Nothing was promoted. Fix the card's template or the recipe's words; the run's journal has the "
            "output of each block.",
        )
    ran = results.ran
    figure = f"{ran} of {numbers.counted(len(outcomes), 'block')} ran"
    return StageResult(results, figure, facts={"blocks": ran})


def _lend(base: str, folder: Path) -> None:
    """Let the blocks find the base where the release has it already: the adapter's block would fetch it once more."""
    held, cache = cached_repo(base), Place("", folder).cache
    if held.is_dir():
        cache.mkdir(parents=True)
        (cache / held.name).symlink_to(held.resolve(), target_is_directory=True)


def _lend_release(ctx: Context[Settings, Inputs], folder: Path) -> None:
    """Let the blocks find the release's large files where this machine has them, with the digests of the Hub's."""
    staged, parts = ctx.inputs.staged, ((ctx.inputs.merged, "model/", ""), (ctx.inputs.adapter, "adapter/", "adapter/"))
    cache = Place("", folder).cache / cached_repo(staged.repo).name
    promised = staged.bundle.files
    for artifact, inside, prefix in parts:
        for name in artifact.contents.files:
            path, local = prefix + name.removeprefix(inside), artifact.folder / name
            if not name.startswith(inside) or not path.endswith(".safetensors") or path not in promised:
                continue
            if digests(local) == promised[path]:
                blob, link = cache / "blobs" / promised[path].sha256, cache / "snapshots" / staged.commit / path
                for place in (blob, link):
                    place.parent.mkdir(parents=True, exist_ok=True)
                if not blob.is_symlink():
                    blob.symlink_to(local.resolve())
                link.symlink_to(blob.resolve())


def _cards(staged: StagedCommit) -> list[tuple[str, str]]:
    """The cards of the bundle: (name of the generated copy, path)."""
    held = staged.bundle.files
    return [(name, path) for name, path in CARDS.items() if path in held]


def _card(hub: Hub, staged: StagedCommit, name: str, path: str, where: RecipePlace) -> Card:
    """The card ``path`` of the staged commit, which is to be moved to ``where``.

    Of a repo of others the blocks that this release wrote are run (``name`` is the copy of the card as it was
    generated), and not what its owner has edited.
    """
    repo, commit = staged.repo, staged.commit
    ours = hub.target.embedded or hub.target.trusted or repo_stranger(hub, repo) is None
    text = _text(hub, repo, path if ours else f"{GENERATED}/{name}", commit)
    return Card(path, text, Pin(*where, commit), strict=True, not_run=OPTIONAL if NOT_RUN in text else frozenset())


def _text(hub: Hub, repo: str, path: str, commit: str) -> str:
    """A card as the Hub holds it."""
    content = hub.read_listed(repo, path, commit)
    if content is None:
        raise ConflictError(f"{repo} has no {path} at {commit[:12]}, where it was verified.", hint="Run it again.")
    return content.decode("utf-8")
