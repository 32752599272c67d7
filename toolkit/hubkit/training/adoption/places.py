"""Where an adapter or a model that was trained elsewhere lies: a folder, a trainer's output, a repo of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import digest_of, digests
from hubkit.core.names import repo_id_problem
from hubkit.models.tensors import INDEX, SINGLE

Form = Literal["adapter", "weights"]
ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG = "adapter_config.json", "adapter_model.safetensors", "config.json"
TAKEN = {
    "adapter": (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "LICENSE", "NOTICE"),
    "weights": (
        CONFIG, "generation_config.json", SINGLE, "model-?????-of-?????.safetensors", INDEX, "tokenizer.json",
        "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "vocab.txt", "merges.txt", "chat_template.jinja", "LICENSE", "NOTICE",
    ),
}  # fmt: skip
"""The files that are taken of each form, as patterns; a trainer's folder holds much else."""
INNER = "adapter"
"""The folder of the adapter in a release of hubkit."""
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class RepoPlace:
    """``owner/repo@revision`` on the Hub of the release."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def place_of(name: str, beside: Path) -> Path | RepoPlace:
    """What ``name`` means in a recipe in the folder ``beside``: a folder that is there, else a repo if it looks so.

    A path that begins with ``.``, ``/`` or ``~`` is never a repo.
    """
    folder = beside.absolute() / Path(name).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")):
        return folder
    repo, _, revision = name.partition("@")
    return RepoPlace(repo, revision or "main") if repo_id_problem(repo) is None else folder


def find_folder(place: Path, form: Form) -> Path:
    """The folder with the files of ``form``: ``place`` itself, else the last of its checkpoint folders.

    Of a release of hubkit, whose root is the merged model, the adapter is in ``adapter/``.

    UsageError when there is none, RefusedError when there are only pickles.
    """
    config = ADAPTER_CONFIG if form == "adapter" else CONFIG
    if not place.is_dir():
        what = "is no folder" if place.exists() else "does not exist"
        raise UsageError(f"{place} {what}.", hint=f"Name the folder that holds {config}.")
    found = next((folder for folder in _candidates(place, form) if (folder / config).is_file()), None)
    other = "weights" if form == "adapter" else "adapter"
    if found is None or (form == "weights" and (found / ADAPTER_CONFIG).is_file()):
        hint = f"Name the folder that holds {config}."
        if (place / (CONFIG if form == "adapter" else ADAPTER_CONFIG)).is_file():
            hint = f"It holds {'a whole model' if form == 'adapter' else 'an adapter'}: name it as `{other}`."
        raise UsageError(f"{place} holds no {config if form == 'adapter' else 'whole model'}.", hint=hint)
    _refuse_missing_weights(found, form)
    return found


def _candidates(place: Path, form: Form) -> Iterator[Path]:
    """``place``, then its checkpoints, the last one first, then where a release of hubkit has its adapter."""
    yield place
    yield from checkpoints(place)
    if form == "adapter":
        yield place / INNER


def checkpoints(place: Path) -> list[Path]:
    """The folders ``checkpoint-N`` of a trainer in ``place``, the last one first."""
    numbered = [(int(match[1]), path) for path in place.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True) if path.is_dir()]


def _refuse_missing_weights(folder: Path, form: Form) -> None:
    names = [path.name for path in sorted(folder.iterdir())]
    weights = [name for name in names if name.endswith(".safetensors")]
    if form == "adapter":
        weights = [name for name in weights if name == ADAPTER_WEIGHTS]
    if weights:
        for name in weights:
            refuse_pointer(folder / name)
        return
    beginning = "adapter_model" if form == "adapter" else "pytorch_model"
    pickles = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _PICKLES)]
    named = next((name for name in pickles if name.startswith((beginning, "consolidated", "model"))), None)
    if named is not None:
        raise RefusedError(
            f"{folder} has its weights in {named}, a pickle, which can run code when it is loaded.",
            hint=f"Convert it in a process with limits: hubkit convert {folder} -o {folder.name}-safetensors",
        )
    expected = ADAPTER_WEIGHTS if form == "adapter" else SINGLE
    raise RefusedError(f"There is no {expected} in {folder}.", hint="Save it again with safetensors.")


def refuse_pointer(path: Path) -> None:
    """RefusedError when ``path`` is not the file, but the pointer that git-lfs leaves for it."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise RefusedError(f"{path} is a git-lfs pointer, not the file.", hint="Run `git lfs pull` there.")


def taken(folder: Path, form: Form) -> list[Path]:
    """The files in ``folder`` that are taken, sorted by their names."""
    return [path for path in sorted(folder.iterdir()) if is_taken(path.name, form) and path.is_file()]


def is_taken(name: str, form: Form) -> bool:
    """Whether the file ``name`` belongs to a model or an adapter, and not to its training."""
    return any(fnmatchcase(name, pattern) for pattern in TAKEN[form])


def digest(place: Path, form: Form) -> str:
    """The digest of what would be taken of ``place``; empty where nothing can be."""
    try:
        folder = find_folder(place, form)
    except (RefusedError, UsageError, OSError):
        return ""
    return digest_of([[path.name, *_digest(path)] for path in taken(folder, form)])


def _digest(path: Path) -> Iterable[str]:
    status = path.stat()
    return [_digest_then(path, status.st_size, status.st_mtime_ns, status.st_ino)]


@lru_cache(256)
def _digest_then(path: Path, size: int, changed: int, inode: int) -> str:
    """The sha256 of ``path`` as it was then: weights are large, and keys are computed often."""
    return digests(path).sha256
