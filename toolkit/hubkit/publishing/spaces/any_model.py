"""Anybody's chat model, in a folder or a repo, as the app of ``spaces/chat`` shows it: `hubkit space run ./my-model`.

    model = model_in(folder, place, base_of)        # RefusedError: no model, pickles, no chat template
    require_room(model.bytes)                       # RefusedError: it is too big for this machine

The app loads the files where they are, and asks no Hub. An adapter is loaded on the base that its config names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from hubkit.checks.model import chat, pointers, weights
from hubkit.checks.model.adapter import ADAPTER_CONFIG
from hubkit.checks.model.family import family_of, weights_of_transformers
from hubkit.checks.model.files import settings_of
from hubkit.checks.model.templates import template_of
from hubkit.checks.model.vocabulary import read as read_vocabulary
from hubkit.checks.screening import PICKLE_SUFFIXES
from hubkit.checks.source import FolderSource, Source
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, size
from hubkit.models.chat.eos import EndOfTurn
from hubkit.publishing.spaces.building import Facts, Revision

PROMPTS = ("What is the capital of Italy?", "Explain gravity to a child in two sentences.", "Write a haiku about rain.")
"""Example questions for a model of which nothing was measured."""
MAX_NEW_TOKENS = 256
_SMALL_FILES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken"})
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "chat_template.jinja")
_DTYPES = frozenset({"float32", "bfloat16", "float16"})
_MORE_THAN_WEIGHTS = 1.15
"""Memory of a process that chats, in weights: the libraries, the cache of an answer, and what loading takes."""

BaseOf = Callable[[str, str | None], Path]
"""Finds the folder of a base, by its repo id and revision."""


@dataclass(frozen=True)
class AnyModel:
    """``facts`` of a model for the app, the folders that the app reads, and the bytes of its weights."""

    facts: Facts
    reads: tuple[Path, ...]
    bytes: int


def needed_files(source: Source) -> list[str]:
    """The files of ``source`` that the app needs, not weights in other formats. RefusedError when it is no model."""
    files = source.files()
    adapter = _adapter_of(source)
    small = [name for name in files if "/" not in name and PurePosixPath(name).suffix in _SMALL_FILES]
    if adapter is None:
        return [*small, *weights_of_transformers([name for name in files if _is_weights(name)])]
    return [*small, f"{adapter}{ADAPTER_CONFIG}", f"{adapter}{_ADAPTER_WEIGHTS}"]


@dataclass(frozen=True)
class Shown:
    """How a model is named: a repo or the path of a folder, the revision, and its commit (empty: a folder)."""

    name: str
    revision: str = "main"
    commit: str = ""


def model_in(folder: Path, place: Path, base_of: BaseOf, shown: Shown | None = None) -> AnyModel:
    """The model in ``folder``. ``place`` is an empty folder for what an adapter needs besides.

    RefusedError when it is no model that the app can chat with.
    """
    source = FolderSource(folder.resolve())
    adapter = _adapter_of(source)
    shown = shown or Shown(str(source.folder))
    if adapter is None:
        held, config = _weights(source)
        return AnyModel(
            _facts(source, shown, held, config),
            (_reach(source.folder),),
            held.bytes,
        )
    settings = settings_of(source, f"{adapter}{ADAPTER_CONFIG}", [])
    named, pinned = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(named, str) or not named:
        raise RefusedError(
            f"{source.name}: {adapter}{ADAPTER_CONFIG} names no base model.",
            hint="Set base_model_name_or_path to the repo id or the folder of the base.",
        )
    base = FolderSource(_base_folder(source.folder, named, pinned if isinstance(pinned, str) else None, base_of))
    held, config = _weights(base)
    prepared = FolderSource(_prepare(source, base, adapter, place))
    size_of_adapter = source.files()[f"{adapter}{_ADAPTER_WEIGHTS}"].size
    return AnyModel(
        _facts(prepared, shown, held, config, base=_named(base.folder, named, place)),
        (_reach(source.folder), _reach(base.folder), prepared.folder),
        held.bytes + size_of_adapter,
    )


def require_room(needed: int, what: str, available: int | None = None) -> None:
    """RefusedError when weights of ``needed`` bytes do not fit into the free memory of this machine."""
    free = psutil.virtual_memory().available if available is None else available
    if needed * _MORE_THAN_WEIGHTS > free:
        raise RefusedError(
            f"{what} is too big for this machine: its weights need {size(needed * _MORE_THAN_WEIGHTS)} of memory, and "
            f"{size(free)} are free.",
            hint="Close other programs, or run a smaller or quantized model.",
        )


def weights_size(source: Source) -> int:
    """The bytes of the weights that the app loads from ``source``, without those of a base."""
    names = [name for name in needed_files(source) if name.endswith(".safetensors")]
    return sum(source.files()[name].size for name in names)


def _adapter_of(source: Source) -> str | None:
    """The folder, with a slash, of the adapter that is loaded; None: the model has weights of its own."""
    files = source.files()
    own = [name for name in files if _is_weights(name)]
    if own and "config.json" in files:
        if absent := pointers.pointers_in(source):
            raise RefusedError(
                f"{source.name} holds git-lfs pointers in place of files, such as {min(absent)}.",
                hint="Download them with `git lfs pull`.",
            )
        return None
    for place in ("", "adapter/"):
        if f"{place}{ADAPTER_CONFIG}" in files and f"{place}{_ADAPTER_WEIGHTS}" in files:
            return place
    if pickles := sorted(name for name in files if PurePosixPath(name).suffix in PICKLE_SUFFIXES and "/" not in name):
        convert = f"hubkit convert {source.name}" if source.commit is None else "hubkit convert, after a download"
        raise RefusedError(
            f"{source.name} has its weights as pickles ({pickles[0]}), which can run code when they are loaded.",
            hint=f"Convert them to safetensors: {convert}.",
        )
    if gguf := sorted(name for name in files if name.endswith(".gguf")):
        raise RefusedError(
            f"{source.name} has its weights as GGUF, which the app does not load.",
            hint=f"Chat with it in llama.cpp: llama-server -m {gguf[0]}",
        )
    missing = "config.json" if own else "weights (*.safetensors)"
    raise RefusedError(
        f"{source.name} is neither a model nor a Space: it has no {missing}.",
        hint="Name a folder or repo with a model or adapter for transformers, or with a Gradio Space.",
    )


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors") and not name.startswith("adapter_")


def _weights(source: FolderSource) -> tuple[weights.Weights, dict[str, Any]]:
    """The weights of ``source`` and its config.json. RefusedError when they are damaged or missing."""
    found: list[Finding] = []
    config = settings_of(source, "config.json", found)
    held = weights.inspect(source, config, found)
    wrong = next((item for item in found if item.level == "error"), None)
    if held is None or wrong or not config:
        why = wrong.message if wrong else "it has no weights for transformers."
        raise RefusedError(
            f"{source.name} cannot be loaded: {why}", hint=f"See all findings: hubkit check {source.name}"
        )
    family = family_of(config, source.files())
    if family != "text generation":
        raise RefusedError(f"{source.name} is not a model for text ({family}).", hint="Name a chat model.")
    return held, config


def _facts(
    source: FolderSource, shown: Shown, held: weights.Weights, config: Mapping[str, Any], *, base: Path | None = None
) -> Facts:
    """What the app shows, with the folders that it loads in place of repos; an adapter is loaded on its ``base``."""
    end = _end_of_turn(source, shown.name, config)
    dtype = held.dtype if held.dtype in _DTYPES else "bfloat16"
    revision = Revision(
        shown.revision,
        shown.commit,
        f"LoRA adapter of {base.name}" if base else f"{count(held.parameters)} parameters in {dtype}",
        form="adapter" if base else "weights",
        repo=str(source.folder),
    )
    return Facts(
        title=PurePosixPath(shown.name).name,
        repo=shown.name,
        licence="unknown",
        base=(str(base or ""), ""),
        dtype=dtype,
        end_of_turn=(end.id, end.token),
        max_new_tokens=MAX_NEW_TOKENS,
        revisions=[revision],
        prompts=PROMPTS,
    )


def _end_of_turn(source: FolderSource, shown: str, config: Mapping[str, Any]) -> EndOfTurn:
    """The token that ends an answer, by the chat template, else by the settings of the model."""
    found: list[Finding] = []
    tokenizer_config = settings_of(source, "tokenizer_config.json", found)
    if template_of(source, tokenizer_config, found) is None:
        raise RefusedError(
            f"{shown} has no chat template, so nothing says how to write a conversation for it.",
            hint="Save one as chat_template.jinja in the same folder; a model that only completes text has none.",
        )
    end, _ = chat.inspect(source, config, found, chat.Holder("text generation", True, True))
    if end:
        return end
    ids = {number: token for token, number in read_vocabulary(source, tokenizer_config, found).special.items()}
    for settings in (settings_of(source, "generation_config.json", found), config):
        value = settings.get("eos_token_id")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int):
                return EndOfTurn(ids.get(number, f"token {number}"), number)
    why = next((item.message for item in found if item.level == "error"), "no file names it.")
    raise RefusedError(
        f"Cannot tell which token ends an answer of {shown}: {why}",
        hint=f"See all findings: hubkit check {source.name}",
    )


def _base_folder(folder: Path, named: str, revision: str | None, base_of: BaseOf) -> Path:
    """The folder of the base: beside the adapter, or what ``base_of`` finds."""
    for place in (Path(named).expanduser(), folder / named):
        if place.is_dir():
            return place.resolve()
    return base_of(named, revision).absolute()


def _prepare(source: FolderSource, base: FolderSource, adapter: str, place: Path) -> Path:
    """A folder of links as a release has it: the tokenizer at the root, the adapter in ``adapter/``."""
    holder = source if set(_TOKENIZER[:3]) & source.files().keys() else base
    _link(holder, [name for name in holder.files() if _is_small(name)], place)
    if "chat_template.jinja" not in holder.files() and not _has_template(holder):
        _link(base, [name for name in base.files() if name == "chat_template.jinja"], place)
    if not (place / "config.json").exists():
        _link(base, ["config.json"], place)
    for name in (ADAPTER_CONFIG, _ADAPTER_WEIGHTS):
        target = place / "adapter" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((source.folder / f"{adapter}{name}").resolve())
    return place


def _named(folder: Path, name: str, place: Path) -> Path:
    """A link to a base with the name that people know it by; in a cache, its folder is named by a commit."""
    link = place / "base" / PurePosixPath(name).name
    link.parent.mkdir()
    link.symlink_to(folder)
    return link


def _has_template(source: FolderSource) -> bool:
    return template_of(source, settings_of(source, "tokenizer_config.json", []), []) is not None


def _is_small(name: str) -> bool:
    return "/" not in name and PurePosixPath(name).suffix in _SMALL_FILES and not name.startswith("adapter_")


def _link(source: FolderSource, names: Collection[str], into: Path) -> None:
    for name in names:
        (into / name).symlink_to((source.folder / name).resolve())


def _reach(folder: Path) -> Path:
    """What the app must be able to read: in a cache of the Hub's client, the files are links to ``blobs``."""
    return folder.parent.parent if folder.parent.name == "snapshots" else folder
