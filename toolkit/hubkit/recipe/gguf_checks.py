"""Mistakes of the recipe's ``gguf`` that show only beside its other keys: unknown variants, places that clash."""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.names import ref_problem, repo_id_problem
from hubkit.recipe.mistakes import Mistake, did_you_mean
from hubkit.recipe.models import Place, Recipe


def gguf_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Every such mistake of ``recipe``; none without ``gguf``."""
    asked = recipe.gguf
    if asked is None:
        return
    unknown = [name for name in asked.variants if name not in recipe.variants]
    for name in unknown:
        problem = f"there is no variant {name!r}{did_you_mean(name, recipe.variants)}"
        yield Mistake(("gguf", "variants"), problem)
    if asked.repo is not None and len(asked.variants) > 1:
        yield Mistake(("gguf", "repo"), "several variants cannot share this repo; remove this key, or name one variant")
    elif not unknown and asked.place != "folder":
        yield from _clashes(recipe)
    if asked.gate == "enforce" and recipe.gates.stop_rate is None:
        problem = "there is no gate to enforce; add `gates.stop_rate`, or remove this key"
        yield Mistake(("gguf", "gate"), problem)
    yield from _prompts(recipe, asked.prompts)
    for name in asked.benchmarks:
        if name not in recipe.evaluate.suites:
            problem = f"{name!r} is not run on the weights{did_you_mean(name, recipe.evaluate.suites)}"
            yield Mistake(("gguf", "benchmarks"), f"{problem}; add it to evaluate.suites, or leave it out")


def _prompts(recipe: Recipe, wanted: int | None) -> Iterator[Mistake]:
    """``gguf.prompts`` beyond those that are held out."""
    rate = recipe.gates.stop_rate
    if wanted is None:
        return
    if rate is None:
        yield Mistake(("gguf", "prompts"), "no stop rate is measured; add `gates.stop_rate`, or remove this key")
    elif wanted > rate.prompts:
        yield Mistake(("gguf", "prompts"), f"gates.stop_rate holds out {rate.prompts} prompts; ask at most as many")


def _clashes(recipe: Recipe) -> Iterator[Mistake]:
    """Places of GGUF files that are no place, or somebody else's."""
    key = "repo" if recipe.gguf and recipe.gguf.place == "repo" else "place"
    taken = {_folded(recipe.place(name)): f"the variant {name!r} is published" for name in recipe.variants}
    published = {repo.lower() for repo in recipe.variant_repos()}
    for name in recipe.gguf_variants():
        place = recipe.gguf_place(name)
        assert place is not None
        if problem := repo_id_problem(place.repo):
            yield Mistake(("gguf", key), f"the repo would be {place.repo!r}, which is not a repo id: {problem}")
        elif problem := ref_problem(place.branch):
            yield Mistake(("gguf", key), f"the branch would be {place.branch!r}, which cannot be one: {problem}")
        elif place.repo.lower() == recipe.base.repo.lower() and place.repo.lower() not in published:
            yield Mistake(("gguf", key), f"{place.repo} is the base's repo, which this recipe only reads")
        elif owner := _owner(_folded(place), taken):
            where = f"the branch {place.branch!r} of {place.repo}" if key == "place" else place.repo
            yield Mistake(("gguf", key), f"{where}, where the GGUF files of {name!r} would be, is where {owner}")
        taken[_folded(place)] = f"those of {name!r} are published"


def _owner(place: Place, taken: dict[Place, str]) -> str | None:
    """Who has ``place`` already, or a branch that git cannot hold beside it."""
    for other, owner in taken.items():
        apart = other.branch.startswith(f"{place.branch}/") or place.branch.startswith(f"{other.branch}/")
        if other.repo == place.repo and (other.branch == place.branch or apart):
            return owner
    return None


def _folded(place: Place) -> Place:
    return Place(place.repo.lower(), place.branch.lower())
