"""What a training was made from, as its manifest records it: how two of them differ, and what an old key stood for.

The key of an adapter is the digest of the settings and inputs that can change its weights
(:mod:`hubkit.training.counted`). The version of the stage and of the libraries is recorded and does not count: an
upgrade discards no training. It is reported instead, and ``--retrain`` trains again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from hubkit.core.files import digest_of, read_json
from hubkit.core.libraries import installed
from hubkit.pipeline.jobs import Job
from hubkit.pipeline.keys import input_digests, plain
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.stage import Stage
from hubkit.training.adapter import TrainedAdapter

MadeFrom = Mapping[str, Any]
"""``settings``, ``inputs``, ``version`` and ``libraries``, as plain JSON values."""

_OLD_SETTINGS = ("name", "uses", "continues", "quantization", "lora", "args", "seed")
"""The settings that keys were computed of before they were recorded."""


@dataclass(frozen=True)
class Change:
    """One thing in which a training would differ from the one that is there; ``name`` is the recipe's key where it is
    one. None: absent."""

    name: str
    before: Any
    after: Any

    @property
    def before_in_words(self) -> str:
        """The value before, as it is printed."""
        return _shown(self.before)

    @property
    def after_in_words(self) -> str:
        """The value after, as it is printed."""
        return _shown(self.after)

    def __str__(self) -> str:
        return f"{self.name}: {self.before_in_words} → {self.after_in_words}"


def made_from(stage: Stage, job: Job, settings: Any, finished: Mapping[str, StoredArtifact]) -> MadeFrom:
    """What the training ``job`` would be made from now."""
    record = {
        "settings": counted_settings(settings),
        "inputs": _counted_inputs(stage, job, finished),
        "version": stage.VERSION,
        "libraries": {name: installed(name) for name in stage.SHAPED_BY},
    }
    return dict(json.loads(json.dumps(record)))


def counted_settings(settings: Any) -> Any:
    """What of a training's ``settings`` counts, as plain JSON values."""
    return json.loads(json.dumps(plain(settings.counted() if hasattr(settings, "counted") else settings)))


def training_key(record: MadeFrom) -> str:
    """The key of an adapter that is made from ``record``."""
    return digest_of({"settings": record["settings"], "inputs": record["inputs"]})


def _counted_inputs(stage: Stage, job: Job, finished: Mapping[str, StoredArtifact]) -> dict[str, Any]:
    counted, inputs = getattr(getattr(stage, "Inputs", None), "COUNTED", {}), input_digests(job, finished)
    for field, count in counted.items():
        source = job.input_sources.get(field)
        if source is not None and source.jobs:
            inputs[field] = count(finished[source.jobs[""]])
    return inputs


def changes(job: Job, before: MadeFrom, after: MadeFrom) -> tuple[Change, ...]:
    """In what a training of ``job`` from ``after`` differs from the one that was made from ``before``."""
    old = {**_flat(before["settings"]), **_flat({"input": before["inputs"]})}
    new = {**_flat(after["settings"]), **_flat({"input": after["inputs"]})}
    names = dict.fromkeys([*new, *old])
    return tuple(
        Change(_recipe_key(job, name), old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    )


def upgrades(before: MadeFrom, after: MadeFrom) -> tuple[Change, ...]:
    """Which versions of libraries, and of the stage, changed between ``before`` and ``after``."""
    old = {**before["libraries"], "the stage": before["version"]}
    new = {**after["libraries"], "the stage": after["version"]}
    return tuple(Change(name, old.get(name), value) for name, value in new.items() if old.get(name) != value)


def upgrades_in_words(found: Iterable[Change]) -> str:
    """``found`` as 'made with trl 1.16.0, now 1.17.0'."""
    listed = [f"{item.name} {item.before or '(none)'}, now {item.after or '(none)'}" for item in found]
    return f"made with {'; '.join(listed)}"


def proven(
    stage: Stage, job: Job, stored: StoredArtifact, candidates: Iterable[Any], finished: Mapping[str, StoredArtifact]
) -> MadeFrom | None:
    """What ``stored`` was made from, when its key is one of before such records were written; None when unknown.

    The key is computed the old way from ``candidates`` (settings), from what ``training.json`` says of the arguments
    and the libraries, and from earlier versions of the stage. Only one that gives the very same key is believed.
    """
    if not finished.keys() >= {*job.inputs}:
        return None
    path = stored.path / TrainedAdapter.FILE
    facts = read_json(path) if path.is_file() else {}
    digests = plain(input_digests(job, finished))
    now = {name: installed(name) for name in stage.SHAPED_BY}
    libraries = [now, {name: (facts.get("libraries") or {}).get(name) for name in now}]
    for settings in candidates:
        old = {name: plain(getattr(settings, name)) for name in _OLD_SETTINGS if hasattr(settings, name)}
        for args, used, version in product(
            [old.get("args"), facts.get("args")], libraries, range(stage.VERSION, 0, -1)
        ):
            given = {**old, "args": args}
            key = digest_of({"settings": given, "inputs": digests, "version": version, "libraries": used})
            if key == stored.key:
                record = made_from(stage, job, _with_args(settings, args), finished)
                return {**record, "version": version, "libraries": used}
    return None


def _with_args(settings: Any, args: Any) -> Any:
    from dataclasses import replace

    return replace(settings, args=args)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted path."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return dict(_leaves(value, prefix))


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        yield from _flat(item, f"{prefix}.{name}" if prefix else name).items()


def _recipe_key(job: Job, name: str) -> str:
    """The recipe's key, or the input's name in words, for a path in a record."""
    if name == "input.rows":
        return "rows to train on"
    if name == "input.previous":
        return "the adapter that it continues"
    if name.startswith("input."):
        return name.removeprefix("input.")
    return name if name == "seed" else f"stages.{job.stage_name}.{name}"


def _shown(value: Any) -> str:
    if value is None:
        return "(absent)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:12]}…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
