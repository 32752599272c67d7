"""The recipe as a branch's manifest has it: what led to the variant, without what names files of somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubkit.models.chat import library
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe, Source
from hubkit.recipe.stage import Scope
from hubkit.training.adoption.places import RepoPlace, place_of
from hubkit.training.launching.launch import Launching

_PARTS = ("seed", "base", "chat", "data", "stages", "evaluate", "gates")
"""Parts of the recipe that shape the weights and the measurements. Not where it is published, and who signs it."""
_LATER_KEYS = ("repo", "file", "config", "columns", "weight", "duplicates", "eval")
"""Keys of a source that are left out where they say nothing, so that the manifest of an older recipe stays the same."""
_PRIVATE = re.compile(r"(hub|trackio)_.*|.*(dir|path|token|key)|report_to|run_name|project|deepspeed")
"""Arguments of a trainer that hold paths, tokens, or names of tracking services."""


def recipe_record(recipe: Recipe, scope: Scope) -> dict[str, Any]:
    """What of ``recipe`` led to the variant, as plain values.

    Files that it names are recorded by their digests and not by their paths.
    """
    plain = recipe.model_dump(mode="json", include=set(_PARTS))
    plain["data"] = {name: [_public_source(source) for source in entry] for name, entry in recipe.data.items()}
    chain = recipe.chain(recipe.variants[scope.published].stage)
    plain["stages"] = {name: _public_stage(plain["stages"][name], scope.recipe_folder) for name in chain}
    for name in chain:
        plain["stages"][name] |= _launched(recipe, name, scope.recipe_folder)
    for trained in plain["stages"].values():
        if trained["train_on"] == "last":  # the manifest of an older recipe stays the same
            del trained["train_on"]
        if trained["batch_size"] is None:
            del trained["batch_size"]
        del trained["checkpoint_minutes"]  # only says which checkpoints are written
        del trained["probe"]  # it shapes nothing
    plain["evaluate"].pop("results")  # .hubkit/reported.json has what they hold, with their digests
    if not plain["gates"]["benchmarks"]:
        del plain["gates"]["benchmarks"]
    template = recipe.chat.template
    named = {
        "chat.template": template if library.names_file(template) else None,
        "evaluate.include": plain["evaluate"].pop("include"),
    }
    found = {key: NamedFile.beside(scope.recipe_folder, name) for key, name in named.items() if name}
    files = {key: file.digest for key, file in found.items() if file.exists}
    if "chat.template" in files:
        plain["chat"] = {"template": "file"}
    return {**plain, **({"files": files} if files else {})}


def _launched(recipe: Recipe, stage: str, folder: Path) -> dict[str, Any]:
    """In how many processes ``stage`` was trained, and with which config file of accelerate."""
    launching = Launching.of(recipe.launch_of(stage), folder)
    if launching is None:
        return {}
    found = {"processes": launching.count, "machines": launching.machines, "kind": launching.kind}
    return {"launch": {**found, **({"config": launching.file.digest} if launching.file else {})}}


def _public_source(source: Source) -> dict[str, Any]:
    """``source`` as plain values; of files their names, without the folders of this machine."""
    plain = source.model_dump(mode="json")
    plain["file"] = source.name if source.repo is None else None
    return {name: value for name, value in plain.items() if name not in _LATER_KEYS or value not in (None, {}, "drop")}


def _public_stage(stage: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A stage of the recipe without what names files of this machine, and without tokens.

    A repo that is adopted is named, a folder is not: the manifest has the digests of its files.
    """
    adopted = [stage.get("adapter"), stage.get("weights")]
    local = any(name and not isinstance(place_of(name, folder), RepoPlace) for name in adopted)
    told = {key: stage.get(key) for key in ("trained_with", "base", *(() if local else ("adapter", "weights")))}
    named = {key: value for key, value in told.items() if value and not value.startswith(("/", "~", "."))}
    kept = {key: value for key, value in stage.items() if key not in (*_OF_ADOPT, "launch")}
    return {**kept, **named, "args": public_args(stage["args"])}


_OF_ADOPT = ("adapter", "weights", "base", "trained_with", "training")


def public_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a trainer without those that hold paths, tokens, or names of tracking services."""
    return {
        name: value
        for name, value in args.items()
        if not _PRIVATE.fullmatch(name) and not (isinstance(value, str) and value.startswith(("/", "~", ".")))
    }
