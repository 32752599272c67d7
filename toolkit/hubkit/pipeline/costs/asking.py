"""What only PyTorch, transformers and PEFT know, asked in one child process and remembered in hubkit's home.

How fast this device is (:mod:`hubkit.pipeline.costs.measuring`), and what model and adapters the base's config.json and
the recipe make (:mod:`hubkit.models.meta`). A child, so that `hubkit plan` imports none of them; one, because importing
them takes most of its time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubkit.core.files import digest_of, read_json, write_json
from hubkit.core.late_compiling import compile_late
from hubkit.core.libraries import installed
from hubkit.core.processes.child import answer_question
from hubkit.core.processes.parent import JobFailed, ask_module
from hubkit.pipeline.costs.devices import Device, from_measured
from hubkit.pipeline.costs.formulas import ModelSize

_FILE = "measured.json"
_REMEMBERED = 50
_SECONDS = 300


@dataclass(frozen=True)
class Model:
    """The size of a base, the type of its files, and the parameters that each LoRA config trains, by name.

    ``problem`` is what keeps it from being built, and then ``size`` is None.
    """

    size: ModelSize | None
    dtype: str = "bfloat16"
    trained: Mapping[str, int] | None = None
    problem: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Model:
        """What :func:`look` wrote."""
        return cls(**{**value, "size": ModelSize(**value["size"]) if value["size"] else None})


def ask(
    home: Path, config: bytes | None, loras: Mapping[str, Mapping[str, Any]], announce: Callable[[str], None]
) -> tuple[Device | None, Model | None]:
    """This device, and the model of ``config`` with ``loras`` (None without a config).

    (None, None) where PyTorch, transformers or PEFT cannot be imported. ``announce`` is called before the child starts.
    """
    machine = digest_of(_machine())
    text = config.decode("utf-8", "replace") if config else None
    model = digest_of({"config": text, "loras": loras, "by": _versions()})
    known = _remembered(home)
    wanted = {
        "folder": None if machine in known else str(next(path for path in (home, *home.parents) if path.is_dir())),
        "config": None if model in known else text,
        "loras": loras,
    }
    if wanted["folder"] or wanted["config"]:
        announce("Measuring this device and the base model's config; this takes some seconds.")
        answer = _child(wanted)
        if answer is None:
            return None, None
        known |= {key: answer[name] for key, name in ((machine, "device"), (model, "model")) if answer[name]}
        with contextlib.suppress(OSError):  # a home that cannot be written: asked again next time
            home.mkdir(parents=True, exist_ok=True)
            write_json(home / _FILE, dict(list(known.items())[-_REMEMBERED:]))
    return from_measured(known[machine]), Model.from_json(known[model]) if config else None


def _remembered(home: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(read_json(home / _FILE))
    return {}


def _versions() -> dict[str, str | None]:
    return {name: installed(name) for name in ("torch", "transformers", "peft", "hubkit")}


def _machine() -> dict[str, Any]:
    """What must be the same for measured rates to hold."""
    named = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    return {**_versions(), "cores": os.cpu_count(), **{name: os.environ.get(name) for name in named}}


def _child(wanted: Mapping[str, Any]) -> Any:
    if any(version is None for version in _versions().values()):
        return None
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        return ask_module("hubkit.pipeline.costs.asking", wanted, timeout=_SECONDS, environment=offline)
    except JobFailed:
        return None


def look(config: bytes, loras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """:class:`Model` as plain values, found in this process."""
    from hubkit.models import meta

    found = meta.look(config, loras)
    if found.model is None:
        return asdict(Model(None, problem=found.problem))
    try:
        size = ModelSize.of(found.model)
    except ValueError as error:
        return asdict(Model(None, problem=str(error)))
    trained = {name: adapter.trainable for name, adapter in found.adapters.items()}
    return asdict(Model(size, found.model.dtype, trained))


def _answer(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The child: what is wanted of this device and the model, as plain values."""
    from hubkit.pipeline.costs import measuring

    folder, config = wanted["folder"], wanted["config"]
    device = {**measuring.rates(), **measuring.disk(Path(folder))} if folder else None
    return {"device": device, "model": look(config.encode(), wanted["loras"]) if config else None}


if __name__ == "__main__":
    compile_late()
    answer_question(_answer)
