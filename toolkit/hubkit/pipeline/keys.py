"""The key of an artifact: a digest of all that its stage can read.

It is computed from the declaration: every field of the stage's ``Settings``, the digest of every artifact that fills
a field of its ``Inputs``, its ``VERSION``, and the versions of the libraries in ``SHAPED_BY``. The stage is given
those and nothing else, so what is read and what counts cannot differ. The key of a training is another:
:mod:`hubkit.pipeline.made_from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from hubkit.core.files import digest_of
from hubkit.core.libraries import installed
from hubkit.pipeline.jobs import Job
from hubkit.recipe.artifact import NamedFile, StoredArtifact
from hubkit.recipe.stage import NoInputs, Stage


def artifact_key(stage: Stage, settings: Any, inputs: Mapping[str, Any]) -> str:
    """The key of what ``stage`` makes. ``inputs`` are digests by the field that they fill."""
    return digest_of(key_parts(stage, settings, inputs))


def key_parts(stage: Stage, settings: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`artifact_key` is the digest of, as plain JSON values. Inputs that came later count where filled."""
    inputs_of = getattr(stage, "Inputs", NoInputs)
    later = {item.name for item in fields(inputs_of) if item.metadata.get("later")}
    given = {name: value for name, value in inputs.items() if value or name not in later}
    libraries = {name: installed(name) for name in stage.SHAPED_BY}
    return {"settings": plain(settings), "inputs": plain(given), "version": stage.VERSION, "libraries": libraries}


def input_digests(job: Job, finished: Mapping[str, StoredArtifact]) -> dict[str, Any]:
    """What of each input counts for the key of ``job``: a digest, several by name, or None."""
    found: dict[str, Any] = {}
    for field, source in job.input_sources.items():
        digests = {name: _digest(finished[made], source.part) for name, made in source.jobs.items()}
        found[field] = digests if source.many else digests.get("")
    return found


def _digest(artifact: StoredArtifact, part: str | None) -> str:
    return (artifact.manifest.only(part) if part else artifact.manifest).digest


def plain(value: Any) -> Any:
    """``value`` as plain JSON values. Of a file that the recipe names, its digest; a bare path is refused.

    A field with ``metadata={"counts": False}`` is left out: it says where something is computed, and not what. One with
    ``metadata={"later": True}`` is left out while it is empty: keys of before there was the field stay the same.
    """
    if isinstance(value, NamedFile):
        return {"sha256": value.digest}
    if is_dataclass(value) and not isinstance(value, type):
        counting = {item: getattr(value, item.name) for item in fields(value) if item.metadata.get("counts", True)}
        return {item.name: plain(held) for item, held in counting.items() if held or not item.metadata.get("later")}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "isoformat"):  # YAML knows dates
        return value.isoformat()
    raise TypeError(f"Settings hold a {type(value).__name__}; a file that the recipe names is a NamedFile.")
