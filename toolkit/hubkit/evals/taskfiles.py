"""Own benchmarks: a folder of lm-eval task files (YAML) with their data beside them.

lm-eval hands a task's ``data_files`` to ``datasets``, which looks for them from the current folder. So the folder is
copied, and each file is named there by its absolute path; YAML is read and written, never edited as text.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hubkit.core.bounded_yaml import BoundedLoader, YamlError, load_bounded
from hubkit.core.errors import UsageError
from hubkit.core.files import walk, write_atomic

_TASK_SUFFIXES = {".yaml", ".yml", ""}
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class OwnTasks:
    """What a name in the folder means: one task, or the tasks of a group or a tag."""

    title: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class _Tagged:
    """A scalar under a tag that only lm-eval knows, such as ``!function utils.process``."""

    tag: str
    value: str


class _Loader(BoundedLoader):
    """Safe YAML that keeps lm-eval's own tags as they are."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` read."""


def _construct(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> _Tagged:
    if suffix != "function" or not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, f"the tag !{suffix} is not known", node.start_mark)
    return _Tagged(f"!{suffix}", str(loader.construct_scalar(node)))


_Loader.add_multi_constructor("!", _construct)
_Dumper.add_representer(_Tagged, lambda dumper, item: dumper.represent_scalar(item.tag, item.value))


def own_tasks(folder: Path) -> Mapping[str, OwnTasks]:
    """The names that task files below ``folder`` define: tasks, groups of them, and tags.

    Raises UsageError for a folder that is not there, a file that is not YAML, or data that is missing.
    """
    if not folder.is_dir():
        raise UsageError(
            f"The folder of task files {folder} does not exist.",
            hint="Set evaluate.include to a folder next to the recipe.",
        )
    found: dict[str, OwnTasks] = {}
    tagged: dict[str, list[str]] = {}
    for path in walk(folder):
        if path.suffix != ".yaml":
            continue
        config = _with_includes(path)
        members = config.get("task")
        if isinstance(config.get("group"), str) and isinstance(members, list):
            if not all(isinstance(item, str) for item in members):
                raise UsageError(
                    f"{path}: the group lists a task that is not a name.",
                    hint="Give each task a file of its own and list it by name.",
                )
            title = str(config.get("group_alias") or config["group"])
            found[config["group"]] = OwnTasks(title, tuple(members))
        elif isinstance(members, str):
            for _ in _missing_data(config, path.parent):
                raise UsageError(
                    f"{path}: the data file {_} does not exist.",
                    hint="dataset_kwargs.data_files is relative to the folder of the task file.",
                )
            found[members] = OwnTasks(str(config.get("task_alias") or members), (members,))
            tags = config.get("tag") or ()
            for tag in [tags] if isinstance(tags, str) else tags:
                tagged.setdefault(str(tag), []).append(members)
    for tag, tasks in tagged.items():
        found.setdefault(tag, OwnTasks(tag, tuple(tasks)))
    return found


def task_configs(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The whole configs, with what they include, of the single tasks below ``folders``, by name.

    Functions stay names; data files are named by absolute path. UsageError for a file that is not YAML.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            config = _with_includes(path)
            if isinstance(config.get("task"), str):
                found[config["task"]] = config
    return found


def copy_tasks(folder: Path, to: Path) -> Path:
    """Copy the task files and data of ``folder`` to ``to``, data files named by absolute path. Returns ``to``."""
    shutil.rmtree(to, ignore_errors=True)
    for path in walk(folder):
        target = to / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        config = _read(path) if path.suffix in _TASK_SUFFIXES else None
        kwargs = config.get("dataset_kwargs") if config else None
        if config is None or not isinstance(kwargs, dict) or "data_files" not in kwargs:
            shutil.copy2(path, target)
            continue
        # `datasets` reads the value as a glob pattern, and a step's folder may be called evaluate[main].
        files = _absolute(kwargs["data_files"], glob.escape(str(target.parent.absolute())))
        config["dataset_kwargs"] = {**kwargs, "data_files": files}
        write_atomic(target, yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return to


def _absolute(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    text = str(value)
    return text if "://" in text or Path(text).is_absolute() else f"{folder}/{text}"


def _missing_data(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    kwargs = config.get("dataset_kwargs")
    files = _absolute(kwargs.get("data_files"), str(folder)) if isinstance(kwargs, dict) else None
    for item in _leaves(files):
        if "://" not in item and "*" not in item and not Path(item).is_file():
            yield item


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value


def _with_includes(path: Path, seen: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """The task file with what it includes; nearer keys win, and data files are named by absolute path."""
    config = _read(path)
    if config is None:
        raise UsageError(f"{path} is not a mapping of keys.", hint="See lm-eval's guide to task files.")
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("data_files"):
        config["dataset_kwargs"] = {**kwargs, "data_files": _absolute(kwargs["data_files"], str(path.parent))}
    included = config.pop("include", None)
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included or []:
        target = path.parent / str(name)
        if target in seen or not target.is_file():
            raise UsageError(
                f"{path} includes {name}, which is not there or includes it in turn.", hint="Fix `include:`."
            )
        merged.update(_with_includes(target, seen | {path}))
    return {**merged, **config}


def _read(path: Path) -> dict[str, Any] | None:
    """The mapping in ``path``; None when it is a file of another kind (lm-eval's templates have no suffix)."""
    if path.stat().st_size > _MAX_BYTES:
        return None
    try:
        value = load_bounded(path.read_text(encoding="utf-8"), _Loader)
    except (YamlError, UnicodeDecodeError) as error:
        if path.suffix not in {".yaml", ".yml"}:
            return None
        raise UsageError(f"{path} is not valid YAML.", hint="Fix the task file.") from error
    return value if isinstance(value, dict) else None
