"""Merges a release again and compares every bit of the published weights: `hubkit verify --rederive`.

The base and its commit must be named alike by the manifest and by ``adapter/adapter_config.json``, the dtype by the
recipe in the manifest and by ``config.json``, rank and scaling by that recipe and the adapter. The base is read from
its Hub at that commit, which must be on a branch or a tag, the adapter from the release. The settings in
``config.json`` and the tokenizer must be the base's.

``--proof`` (:mod:`hubkit.publishing.proving`) allows a number what one rounding may differ by; here nothing may differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hubkit.checks.screening.filenames import PICKLE_SUFFIXES
from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.numbers import short_commit
from hubkit.core.trees import short_list
from hubkit.hub.client import Hub
from hubkit.models.gguf.library import gguf_library
from hubkit.models.merging.adapter import read_adapter
from hubkit.models.merging.again import MergedAgain, merge_again
from hubkit.models.merging.companions import PATTERNS, read_settings
from hubkit.models.merging.machine import arithmetic
from hubkit.models.merging.merge import Report
from hubkit.publishing.gguf_bundle import LIBRARIES
from hubkit.publishing.proving import ADAPTER, RELEASE, base_of, held
from hubkit.publishing.published_commits import refuse_unpublished
from hubkit.publishing.rederiving.beside import differences_beside
from hubkit.publishing.rederiving.gguf import GGUF_FILES, GgufAgain, gguf_again, is_gguf
from hubkit.publishing.rederiving.versions import HINT, Version, versions_of
from hubkit.publishing.verifying import read_manifest

_LIBRARIES = ("torch",)
"""Whose version can change a bit of a merge; with hubkit's own."""
_SCALING: Mapping[str, Any] = {"r": 8, "lora_alpha": 8, "use_rslora": False, "use_dora": False}
"""Keys of an adapter's config that its merge depends on, with PEFT's defaults."""
WEIGHTS = PICKLE_SUFFIXES | {".safetensors", ".msgpack", ".h5", ".onnx", ".ot", ".tflite"}
"""Files in which loaders look for weights."""
_ADAPTER_WEIGHTS = f"{ADAPTER}/adapter_model.safetensors"


@dataclass(frozen=True)
class Rederived:
    """What came out: the base at its ``commit``, the ``dtype``, the ``merge`` and the ``versions`` that count.

    ``beside`` is what differs from the base beside the weights: settings in config.json, files of the tokenizer.
    ``gguf`` are the GGUF files of the release, written again from the merged weights once these are proved equal.
    ``unchecked`` are those of them that the manifest lists and that could not be compared.
    """

    base: str
    commit: str
    dtype: str
    merge: MergedAgain
    versions: tuple[Version, ...]
    beside: tuple[str, ...] = ()
    gguf: tuple[GgufAgain, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every bit is the same, and every file of the release was compared."""
        return not self.count and not self.unchecked

    @property
    def only_bits(self) -> bool:
        """Whether nothing but numbers of tensors differ, as another version of a library may make them."""
        return all(item.kind == "numbers" for item in self.merge.differences) and not self.beside

    @property
    def claim(self) -> str:
        """What the release is, if it is equal."""
        return "its adapter merged into its base"

    @property
    def instead(self) -> str:
        """What else can be asked where versions differ."""
        return ", or run it with --proof --thorough"

    @property
    def count(self) -> int:
        """How many differences there are."""
        return len(self.merge.differences) + len(self.beside) + sum(len(item.differences) for item in self.gguf)

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        versions = {item.name: {"release": item.then, "here": item.now} for item in self.versions}
        return {**asdict(self), "versions": versions, "equal": self.equal}


def rederive(
    source: FolderSource | RepoSource,
    hub: Hub,
    *,
    say: Callable[[str], None] = lambda _: None,
    report: Report | None = None,
) -> Rederived:
    """Merge the adapter of ``source`` into its base, read from ``hub``, and compare it with the published weights.

    ``source`` must be what its manifest lists (:func:`hubkit.publishing.verifying.verify`). ConflictError when the
    manifest, the adapter and the configs do not name one base, dtype and scaling, the base's commit is on no branch,
    there are other weights, or the adapter does not fit; RefusedError when the release has no adapter or names no
    commit; UsageError when it has GGUF files and their library is missing.
    """
    content, manifest = read_manifest(source)
    others = sorted(path for path in source.files() if is_gguf(path))
    if others:
        gguf_library()
    needed = (*RELEASE, *PATTERNS, *([GGUF_FILES] if others else []))
    folder = source.folder if isinstance(source, FolderSource) else held(hub, source.repo, source.commit, needed)
    base, commit = base_of(folder / ADAPTER, source.name)
    _same_base(content, base, commit)
    dtype, device = _dtype(content, folder, source.name), _device(content)
    _same_scaling(content, folder)
    refuse_unpublished(hub, base, commit)
    say(f"reading {base}@{short_commit(commit)}")
    there = held(hub, base, commit, PATTERNS)
    with tempfile.TemporaryDirectory(prefix="hubkit-rederive-") as scratch:
        try:
            peft = Path(scratch) / "peft"
            merge = merge_again(
                there, folder / ADAPTER, folder, dtype=dtype, scratch=peft, device=device, report=report
            )
            beside = tuple(differences_beside(there, folder, dtype, merge.config))
        except RefusedError as error:
            raise ConflictError(
                f"{source.name} is not its adapter on {base}@{short_commit(commit)}: {error.message}", hint=HINT
            ) from error
        _no_other_weights(source, merge.files)
        proved = others if not merge.differences else []
        again = tuple(gguf_again(folder, folder / path, Path(scratch), path) for path in proved)
    unchecked = tuple(item.path for item in again if item.not_compared and item.path in manifest.files)
    versions = tuple(_versions(content, device, bool(again)))
    return Rederived(base, commit, dtype, merge, versions, beside, again, unchecked)


def _device(content: Mapping[str, Any]) -> str | None:
    """The CPU when the release was merged on one; None: the fastest device."""
    merged = content.get("merge")
    return "cpu" if isinstance(merged, Mapping) and merged.get("device") == "cpu" else None


def _same_base(content: Mapping[str, Any], base: str, commit: str) -> None:
    named = content.get("base")
    found = (named.get("repo"), named.get("commit")) if isinstance(named, Mapping) else (None, None)
    if found != (base, commit):
        other = f"{found[0]}@{short_commit(str(found[1]))}" if found[0] else "none"
        raise ConflictError(
            f"The adapter was trained on {base}@{short_commit(commit)}, but the base in the manifest is {other}.",
            hint=HINT,
        )


def _dtype(content: Mapping[str, Any], folder: Path, name: str) -> str:
    """The dtype that the recipe and ``config.json`` name alike."""
    config = read_settings(folder, "config.json")
    written = str(config.get("dtype") or config.get("torch_dtype"))
    if written not in ("float32", "float16", "bfloat16"):
        raise RefusedError(f"config.json of {name} names no dtype that a merge can have.")
    recipe = content.get("recipe")
    base = recipe.get("base") if isinstance(recipe, Mapping) else None
    wanted = base.get("dtype") if isinstance(base, Mapping) else None
    if wanted is not None and wanted != written:
        raise ConflictError(
            f"config.json says that the weights are in {written}, the recipe in the manifest says {wanted}.", hint=HINT
        )
    return written


def _same_scaling(content: Mapping[str, Any], folder: Path) -> None:
    """ConflictError when the adapter has another rank or scaling than the recipe in the manifest asks for."""
    recipe, stage = content.get("recipe"), content.get("stage")
    stages = recipe.get("stages") if isinstance(recipe, Mapping) else None
    trained = stages.get(stage) if isinstance(stages, Mapping) and isinstance(stage, str) else None
    lora = trained.get("lora") if isinstance(trained, Mapping) else None
    if not isinstance(lora, Mapping) or content.get("adopted"):
        return
    settings = read_adapter(folder / ADAPTER).settings
    for key, default in _SCALING.items():
        found = default if settings.get(key) is None else settings[key]
        if key in lora and lora[key] is not None and found != lora[key]:
            raise ConflictError(
                f"The adapter has {key}: {found}, the recipe in the manifest {key}: {lora[key]}.", hint=HINT
            )


def _no_other_weights(source: FolderSource | RepoSource, compared: tuple[str, ...]) -> None:
    """ConflictError when a loader could find other weights at the root, or in ``adapter/``, than were compared."""
    others = [
        path
        for path in sorted(source.files())
        if PurePosixPath(path).suffix.lower() in WEIGHTS
        and path.count("/") == path.startswith(f"{ADAPTER}/")
        and path not in (*compared, _ADAPTER_WEIGHTS)
    ]
    if others:
        raise ConflictError(
            f"{source.name} has weights that are no part of the merged model: {short_list(others)}.", hint=HINT
        )


def _versions(content: Mapping[str, Any], device: str | None, gguf: bool) -> list[Version]:
    """What can change a bit of a merge, or of a GGUF file: as the manifest says, and here."""
    made, merged = content.get("made_by"), content.get("merge")
    then = {**(made if isinstance(made, Mapping) else {}), **(merged if isinstance(merged, Mapping) else {})}
    return versions_of(then, (*_LIBRARIES, *(LIBRARIES if gguf else ())), arithmetic(device))
