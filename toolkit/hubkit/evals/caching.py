"""Benchmarks measured once: what the harness returned, kept across runs under a key of everything that shapes it.

An artifact is kept within its run; this is for another run (``--fresh``), another variant or another recipe that asks
the same of the same weights. The parts of a key are written beside the result and compared again when it is read, so
that neither a collision nor a changed file gives a number for something else. The folder can be removed at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.files import Manifest, digest_of, digests, write_json
from hubkit.evals.suites import Suite, harness_tasks
from hubkit.evals.taskfiles import task_configs

FOLDER = "evaluations"
FORMAT = 2
"""Raised when what is kept, or what a part of the key means, changes."""
_LOCAL = {"json", "csv", "parquet", "arrow", "text", "pandas", "xml"}
"""Builders of ``datasets`` that read the files that the task names."""

Key = Mapping[str, Any]
"""Plain JSON values by the name of what they are; see :func:`key_of`."""


@dataclass(frozen=True)
class CachedResult:
    """What the harness returned for one suite, when (UTC) and in how many seconds."""

    raw: Mapping[str, Any]
    measured: str
    seconds: float


class Cache:
    """Results below ``folder``, a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """The file of ``key``."""
        name = digest_of(key)
        return self.folder / name[:2] / f"{name}.json"

    def find(self, key: Key) -> CachedResult | None:
        """What was kept under exactly this ``key``; None when nothing was, or when the file is not whole."""
        try:
            found = json.loads(self.path(key).read_text(encoding="utf-8"))
            if found["key"] != json.loads(json.dumps(key)) or found["sha256"] != digest_of(found["raw"]):
                return None
            return CachedResult(dict(found["raw"]), str(found["measured"]), float(found["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, key: Key, raw: Mapping[str, Any], seconds: float) -> CachedResult:
        """Keep what the harness returned under ``key``, atomically."""
        plain = json.loads(json.dumps(raw))
        kept = CachedResult(plain, datetime.now(UTC).isoformat(timespec="seconds"), round(seconds, 3))
        write_json(
            self.path(key),
            {
                "measured": kept.measured,
                "seconds": kept.seconds,
                "key": json.loads(json.dumps(key)),
                "sha256": digest_of(plain),
                "raw": plain,
            },
        )
        return kept


def key_of(
    *,
    suite: Suite,
    tasks: str,
    data: Mapping[str, str],
    weights: Mapping[str, str],
    template: str | None,
    dtype: str,
    device: str,
    backend: str,
    asked: Mapping[str, Any],
    libraries: Mapping[str, str | None],
    code: int,
) -> Key:
    """The key of one suite on one model.

    ``tasks`` is the digest of the task files with their own data, ``data`` the commit of each data set on the Hub,
    ``weights`` the digest of each file of the model (the tokenizer's among them) or its commit, ``template`` the text
    of the chat template that is applied (None: none is), ``asked`` what the recipe says of limits, examples in the
    prompt and batches, ``libraries`` the versions of what asks and what scores, ``code`` that of our own code.
    Tasks are measured together, so all of the suite's are in it, in order: who shares a batch with whom moves the last
    digits.
    """
    return {
        "format": FORMAT,
        "code": code,
        "suite": list(suite.tasks),
        "own_shots": suite.own_shots,
        "tasks": tasks,
        "data": dict(data),
        "weights": dict(weights),
        "template": template,
        "dtype": dtype,
        "device": device,
        "backend": backend,
        "asked": dict(asked),
        "libraries": dict(libraries),
    }


def tasks_digest(suite: Suite, include: Path | None) -> str:
    """sha256 over the files that define ``suite``: its folders of the harness, or the recipe's own with their data.

    And over the tasks as they are with what they include, which may lie outside of these folders.
    """
    if suite.own:
        if include is None:
            raise UsageError(
                f"The suite {suite.name} has no task files.",
                hint="Set evaluate.include to a folder next to the recipe.",
            )
        return digest_of([Manifest.of(include).digest, _expanded_configs(suite, [include], include)])
    root = harness_tasks()
    found = [
        (path.relative_to(root).as_posix(), digests(path).sha256)
        for folder in suite.folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return digest_of([found, _expanded_configs(suite, [root / folder for folder in suite.folders], root)])


def _expanded_configs(suite: Suite, folders: Iterable[Path], root: Path) -> str:
    """The configs of the tasks of ``suite``, with what they include; functions by name, files from ``root`` on."""
    configs = task_configs(folders)
    return repr([configs.get(name) for name in suite.tasks]).replace(str(root), ".")


def hub_data(suite: Suite, include: Path | None, commit: Callable[[str, str], str]) -> dict[str, str] | None:
    """The commit of every data set on the Hub that ``suite`` reads, by 'repo@revision'.

    ``commit(repo, revision)`` asks the Hub. None when it is unknown what the tasks read (code that loads its own
    data, addresses, files elsewhere on this machine) or when the Hub does not answer: such a suite is not kept.
    """
    folders = [include] if suite.own and include else [harness_tasks() / folder for folder in suite.folders]
    try:
        configs = task_configs(folders)
        wanted = dict.fromkeys(item for name in suite.tasks for item in _reads(configs[name], include))
        return {f"{repo}@{revision}": commit(repo, revision) for repo, revision in wanted}
    except (HubkitError, KeyError, _Unknown):
        return None


class _Unknown(Exception):
    """It is unknown what a task reads."""


def _reads(config: Mapping[str, Any], include: Path | None) -> Iterator[tuple[str, str]]:
    """The data sets on the Hub that a task with this ``config`` reads: (repo, revision)."""
    if "class" in config or config.get("custom_dataset") is not None:
        raise _Unknown
    path, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if not isinstance(path, str) or not isinstance(kwargs, Mapping):
        raise _Unknown
    if path in _LOCAL:
        named = list(_leaves(kwargs.get("data_files")))
        if not named or kwargs.get("data_dir") or not all(_inside(item, include) for item in named):
            raise _Unknown
        return
    if Path(path).exists() or not isinstance(kwargs.get("data_files", ""), str | list | dict):
        raise _Unknown
    if any("://" in item or Path(item).is_absolute() for item in _leaves(kwargs.get("data_files"))):
        raise _Unknown
    yield path, str(kwargs.get("revision") or "main")


def _inside(name: str, include: Path | None) -> bool:
    """Whether the data file ``name`` lies in the folder ``include``, whose digest is in the key."""
    if include is None or "://" in name:
        return False
    root = os.path.realpath(include)
    return os.path.realpath(include / name).startswith(root + os.sep)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield str(value)
