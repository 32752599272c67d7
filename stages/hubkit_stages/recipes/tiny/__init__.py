"""A release small enough for any laptop, created from nothing, and the example of every key of a recipe.

``provide`` creates what the recipe loads: a base model with half a million parameters that knows 164 facts, and
stand-ins for three datasets with their columns. They show one fault and its fix: preference training on truncated
answers loses the end-of-turn token, and a short SFT restores it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.core import numbers
from hubkit.core.errors import UsageError
from hubkit.recipe.provided import Needed, ProvideContext, ProvidedRepo
from hubkit_stages.recipes.tiny import world

if TYPE_CHECKING:
    from hubkit.hub.client import Hub, RepoType

RECIPE = Path(__file__).with_name("hubkit.yaml")
SIZES = Path(__file__).with_name("sizes.json")

DATASETS: dict[str, tuple[str, Callable[[], list[world.Row]], str]] = {
    "Intel/orca_dpo_pairs": ("preferences", world.orca_rows, "detailed answers preferred to terse ones"),
    "argilla/ultrafeedback-binarized-preferences": (
        "preferences",
        world.ultrafeedback_rows,
        "detailed answers preferred to terse ones",
    ),
    "teknium/openhermes": ("instructions", world.openhermes_rows, "questions with terse answers"),
}
"""The datasets that it can create stand-ins for: (kind, function that makes the rows, what is in them)."""


BASE = "hubkit/tiny-hermes"


def provide(ctx: ProvideContext) -> list[ProvidedRepo]:
    """Publish to the embedded Hub what the recipe loads and the Hub lacks, public, with one commit each.

    UsageError for a repo that this recipe cannot make.
    """
    from hubkit.hub.client import connect

    hub = connect(ctx.target)
    provided: list[ProvidedRepo] = []
    for repo, kind in _repos(ctx.needed):
        exists = hub.repo_exists(repo, kind) and "README.md" in hub.tree(repo, "main", kind)
        if not exists:
            folder = ctx.scratch / repo.replace("/", "--")
            shutil.rmtree(folder, ignore_errors=True)
            _make(ctx, repo, kind, folder)
            _publish(hub, repo, kind, folder)
        provided.append(ProvidedRepo(repo, kind, hub.resolve(repo, "main", kind), made=not exists))
    return provided


def _repos(needed: Needed) -> Iterator[tuple[str, Literal["model", "dataset"]]]:
    """The repos that the recipe loads, each once."""
    yield needed.base, "model"
    for repo in needed.datasets:
        yield repo, "dataset"


def _make(ctx: ProvideContext, repo: str, kind: RepoType, folder: Path) -> None:
    if kind == "model":
        if repo != BASE:
            raise UsageError(f"The recipe tiny makes {BASE}, not {repo}.", hint="Fix `base.repo`, or remove `provide`.")
        from hubkit_stages.recipes.tiny.model import make_base

        ctx.report("making the base", 0.0)
        made = make_base(folder, seed=ctx.needed.seed, progress=ctx.report)
        (folder / "README.md").write_text(_base_card(repo, made), encoding="utf-8")
    elif repo in DATASETS:
        make_dataset(folder, repo)
    else:
        raise UsageError(
            f"The tiny recipe cannot create the dataset {repo}, and the embedded Hub has none of that name.",
            hint=f"It can make {', '.join(DATASETS)}; or upload yours to the embedded Hub.",
        )


def make_dataset(folder: Path, repo: str) -> None:
    """Write the stand-in for ``repo`` (a key of ``DATASETS``) with its card to ``folder``, as it will be published."""
    from hubkit_stages.recipes.tiny.model import write_rows

    kind, rows, content = DATASETS[repo]
    made = rows()
    write_rows(folder / "data" / "train.jsonl", made)
    columns = ", ".join(f"`{name}`" for name in made[0])
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en]\nconfigs:\n"
        "  - config_name: default\n    data_files:\n      - {split: train, path: data/train.jsonl}\n---\n"
        f"# {repo}, in small\n\n"
        f"A stand-in on an embedded Hub for the data set of this name: {numbers.count(len(made))} rows of {content},\n"
        f"in the same columns ({columns}) but with {kind} made by hubkit's tiny recipe from 164 facts.\n"
        "It shares no row with the original.\n",
        encoding="utf-8",
    )


def _base_card(repo: str, made: dict[str, Any]) -> str:
    return (
        "---\nlicense: apache-2.0\nlanguage: [en]\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
        f"# {repo}\n\n"
        f"A Mistral of {numbers.count(made['parameters'])} weights, trained from nothing by hubkit's tiny recipe"
        f" in {made['steps']} steps (last loss {made['loss']}).\n"
        "It answers questions about 164 facts, in the ChatML format, and about nothing else: tersely,\n"
        'or in three sentences under the system message "Explain in detail.".\n'
    )


def _publish(hub: Hub, repo: str, kind: RepoType, folder: Path) -> None:
    hub.ensure_repo(repo, "public", kind)
    hub.upload_folder(repo, folder, title="Make it from the little world", repo_type=kind)
