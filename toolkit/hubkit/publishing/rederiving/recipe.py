"""The recipe of a release, made again from its manifest: base and data at the commits that the release was made from.

It trains and merges one variant. What the manifest keeps of files of the publisher's machine are digests alone: such
files must be given again, but the chat template, which is published.

The manifest may come from anybody. Of a stage only what shapes the weights is taken: no argument that names a path, a
service or a token, no file outside the folder of the data, and no stage but hubkit's own trainings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.files import write_atomic
from hubkit.hub.files import FULL_ID
from hubkit.models.chat import library
from hubkit.publishing.bill.facts import mapping, sequence, text
from hubkit.publishing.manifest import is_gguf_place
from hubkit.publishing.recipe_record import public_args
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN
from hubkit.training.counted import counted_args
from hubkit.training.data import files as data_files

TEMPLATE = "chat_template.jinja"
TRAININGS = ("dpo", "sft")
"""The stages that are run for a stranger's recipe."""
_HINT = "Only a release that hubkit trained, with its recipe in the manifest, can be reproduced."
_ASK = "Ask the publisher for the recipe's folder, and run `hubkit release` there."
_STAGE = ("uses", "data", "continues", "train_on", "quantization", "batch_size", "speedups", "accept")
"""Keys of a stage that are taken as they are; ``lora``, ``args`` and ``launch`` are looked at first."""
_SOURCE = ("repo", "config", "split", "mapping", "columns", "rows", "weight", "duplicates", "eval")
"""Keys of a source that are taken as they are."""
_LORA_OF_OTHERS = ("auto_mapping", "base_model_name_or_path", "megatron_config", "megatron_core", "revision")
"""Keys of peft.LoraConfig that name modules or models."""


def recipe_of(content: Mapping[str, Any], template: bytes | None, into: Path) -> Recipe:
    """The recipe that made the release whose manifest has ``content``. Nothing is written.

    ``template`` is the published chat template; if the recipe named a file of its own, :func:`write_template` puts it
    into ``into``. RefusedError, which says why, when the manifest is not enough, or asks for what is not run.
    """
    recorded, repo, variant, stage = (content.get(key) for key in ("recipe", "repo", "variant", "stage"))
    stages = mapping(mapping(recorded).get("stages"))
    if is_gguf_place(content):
        weights = mapping(mapping(content["gguf"]).get("weights"))
        raise RefusedError(
            "There are GGUF files alone, and nothing that was trained.",
            hint=f"Reproduce the weights that they were written from: {weights.get('repo')}"
            f"@{weights.get('branch', MAIN)}. `hubkit verify --rederive` writes the GGUF files again.",
        )
    if not isinstance(recorded, Mapping) or not text(repo) or not text(variant) or stage not in stages:
        raise RefusedError("The manifest has no recipe that could be run again.", hint=_HINT)
    if content.get("adopted") or any(mapping(item).get("uses") == "adopt" for item in stages.values()):
        raise RefusedError("The release was trained elsewhere: its recipe trains nothing.", hint=_HINT)
    base = mapping(content.get("base"))
    plain = {
        "repo": repo,
        "visibility": "private",
        "card": {"title": str(repo).rpartition("/")[2]},
        "seed": recorded.get("seed", 0),
        "base": {
            **{key: value for key, value in mapping(recorded.get("base")).items() if key == "dtype"},
            "repo": base.get("repo"),
            "revision": _commit(base.get("commit"), "the base"),
        },
        "chat": _chat(recorded, template, into),
        "data": {name: list(_sources(name, items, content)) for name, items in mapping(recorded.get("data")).items()},
        "stages": {name: _stage(name, mapping(item)) for name, item in stages.items()},
        "variants": {variant: {"stage": stage}},
        "evaluate": {"suites": []},
        "gates": {name: value for name, value in mapping(recorded.get("gates")).items() if name == "stop_rate"},
    }
    try:
        return Recipe.model_validate(plain)
    except ValueError as error:
        raise RefusedError(
            f"The recipe in the manifest cannot be read by this version: {str(error).splitlines()[0]}.",
            hint="Use the version of hubkit that the manifest names in made_by.",
        ) from error


def write_template(recipe: Recipe, template: bytes | None) -> None:
    """Write the published chat ``template`` where ``recipe`` names it. RefusedError when another file is there."""
    if not library.names_file(recipe.chat.template):
        return
    path, content = Path(recipe.chat.template), template or b""
    if path.exists() and (not path.is_file() or path.read_bytes() != content):
        raise RefusedError(f"{path} is there already and is not the release's.", hint="Choose another folder with -o.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def refuse_other_files(recipe: Recipe, content: Mapping[str, Any], folder: Path | None) -> None:
    """RefusedError when ``recipe`` names files that ``folder`` has not, or that are not those of the manifest."""
    for name, sources in recipe.data.items():
        read = _read(name, content)
        for source, then in zip(sources, read, strict=True):
            if source.repo is not None:
                continue
            if folder is None:
                raise RefusedError(
                    f"The data {name!r} are files of the publisher's machine: {source.name}.",
                    hint="Pass the folder that has them: --files FOLDER.",
                )
            named = data_files.DataFiles.of(folder, [source]).of_source(source)
            if data_files.digest(named) != then.get("commit"):
                raise RefusedError(
                    f"The files of the data {name!r} in {folder} are not those that were trained on: {source.name}. "
                    "Their sha256 is another one than the manifest's.",
                    hint="Ask the publisher for the files.",
                )


def _commit(value: Any, what: str) -> str:
    found = text(value)
    if found is None or not FULL_ID.fullmatch(found):
        raise RefusedError(f"The manifest does not say at which commit {what} was read.", hint=_HINT)
    return found


def _chat(recorded: Mapping[str, Any], template: bytes | None, into: Path) -> dict[str, Any]:
    chat = mapping(recorded.get("chat"))
    digest = mapping(recorded.get("files")).get("chat.template")
    if digest is None:
        if library.names_file(str(chat.get("template", "base"))):
            raise RefusedError("The recipe names a file with a chat template that is not published.", hint=_ASK)
        return {key: value for key, value in chat.items() if key == "template"}
    if template is None or hashlib.sha256(template).hexdigest() != digest:
        raise RefusedError(
            "The recipe named a file with a chat template, and the published one is not that file.", hint=_ASK
        )
    return {"template": str((into / TEMPLATE).absolute())}


def _read(name: str, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the manifest says of each source of the set ``name``."""
    return [mapping(item) for item in sequence(content.get("data")) if mapping(item).get("set") == name]


def _sources(name: str, items: Any, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sources of the set ``name``, each at the commit that was read then."""
    read = _read(name, content)
    listed = [mapping(item) for item in sequence(items)]
    if len(read) != len(listed):
        raise RefusedError(f"The manifest does not say at which commits the data {name!r} was read.", hint=_HINT)
    for source, then in zip(listed, read, strict=True):
        kept = {key: value for key, value in source.items() if key in _SOURCE and value is not None}
        if source.get("file") is None:
            yield {**kept, "revision": _commit(then.get("commit"), f"the data {name!r}")}
        else:
            kept.pop("split", None)
            yield {**kept, "file": _names(source["file"], name)}


def _names(file: Any, data: str) -> tuple[str, ...]:
    """The names of files; the manifest has several as one text. RefusedError when one could lead out of its folder."""
    names = tuple(str(file).split(", "))
    for name in names:
        outside = any(part == "" or part.startswith((".", "~")) for part in name.split("/"))
        if outside or set(name) & set("\\:\0"):
            raise RefusedError(f"The data {data!r} are files outside the recipe's folder: {name!r}.", hint=_ASK)
    return names


def _stage(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as the recipe has it; in how many processes it ran is a part of it."""
    if (uses := stage.get("uses") or name) not in TRAININGS:
        raise RefusedError(
            f"The stage {name!r} uses {uses!r}: only {' and '.join(TRAININGS)} are run again.", hint=_ASK
        )
    lora = stage.get("lora")
    kept = {key: value for key, value in stage.items() if key in _STAGE and value is not None}
    kept["args"] = {**_plain(counted_args(public_args(mapping(stage.get("args"))))), "report_to": "none"}
    if lora is not None:
        kept["lora"] = _lora(name, lora) if isinstance(lora, Mapping) else lora
    launch = mapping(stage.get("launch"))
    if not launch:
        return kept
    if launch.get("machines", 1) != 1 or launch.get("config"):
        raise RefusedError(
            f"The stage {name!r} was trained on several machines, or with a config file of accelerate.", hint=_ASK
        )
    return {**kept, "launch": {"processes": launch.get("processes")}}


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """``args`` without those that transformers would read from a file or that set up accelerate."""
    return {name: value for name, value in args.items() if name != "accelerator_config" and not _names_file(value)}


def _lora(name: str, lora: Mapping[str, Any]) -> dict[str, Any]:
    for key in lora:
        if key in _LORA_OF_OTHERS:
            raise RefusedError(f"The stage {name!r} sets {key} in `lora`, which is not run again.", hint=_ASK)
    return dict(lora)


def _names_file(value: Any) -> bool:
    return isinstance(value, str) and (bool(set(value) & set("/\\")) or value.endswith((".json", ".yaml", ".yml")))
