"""Read the logs of inspect_ai: a ``.eval`` file, which is a zip archive, or a ``.json`` log. One log is of one task.

Of an archive only ``header.json`` is read: the results without the samples. Format: ``EvalLog`` of inspect_ai.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from hubkit.core.bounded_json import LARGE, JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.evals.grouping import group_by_suite
from hubkit.evals.parsing import finite, upward, why
from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, TaskResult

_HEADER = "header.json"
_STDERR = "stderr"
_ZSTD = 93
"""Zstandard, as zip archives number it; Python's zipfile knows it from 3.14 on."""
_PROVIDERS = ("hf/", "vllm/", "sglang/", "transformer_lens/")
"""What inspect writes before the name of a model that it loads itself."""


def is_archive(content: bytes) -> bool:
    """Whether ``content`` begins as a zip archive does."""
    return content.startswith(b"PK\x03\x04")


def is_inspect(value: Any) -> bool:
    """Whether the JSON ``value`` is a log of inspect's."""
    return isinstance(value, Mapping) and isinstance(value.get("eval"), Mapping) and "status" in value


def read_archive(content: bytes, where: str, name: str) -> Results:
    """The results in the archive ``content``. UsageError when it is none of inspect's, or has no results yet."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            value = load_json(_header(archive, content))
    except KeyError:
        raise UsageError(
            f"{where} has no {_HEADER}: the run of inspect did not finish.", hint="Finish it: inspect eval-retry FILE"
        ) from None
    except (ImportError, NotImplementedError):
        raise UsageError(
            f"{where} is compressed with Zstandard, which this installation cannot read.",
            hint="pip install zstandard, or convert it: inspect log convert FILE --to json --output-dir results",
        ) from None
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, JsonError) as error:
        raise UsageError(f"{where} cannot be read: {error}.") from error
    return read_inspect(value, where, name)


def _header(archive: zipfile.ZipFile, content: bytes) -> bytes:
    """The bytes of the header, as many as are read of a JSON file; the zip archives of inspect use Zstandard."""
    entry = archive.getinfo(_HEADER)
    if entry.compress_type != _ZSTD:
        with archive.open(entry) as file:
            return file.read(LARGE.bytes + 1)
    import zstandard

    name, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    packed = content[start : start + entry.compress_size]
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
            return bytes(reader.read(LARGE.bytes + 1))
    except zstandard.ZstdError as error:
        raise zipfile.BadZipFile(str(error)) from None


def read_inspect(raw: Mapping[str, Any], where: str, name: str) -> Results:
    """The results in a log of inspect's. UsageError when it has none, or the run did not succeed."""
    try:
        if raw["status"] != "success":
            raise UsageError(
                f"{where} is the log of a run that did not succeed (status {raw['status']!r}).",
                hint="Finish it: inspect eval-retry FILE",
            )
        return _read(raw, where, name)
    except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"{where} is not a valid log of inspect's: {why(error)}.") from error


def _read(raw: Mapping[str, Any], where: str, name: str) -> Results:
    told, found = raw["eval"], raw["results"]
    config, data = told.get("config") or {}, told.get("dataset") or {}
    epochs = max(1, int(config.get("epochs") or 1))
    n = int(found.get("completed_samples") or 0) // epochs
    metrics = _metrics(found.get("scores") or [], n)
    if not metrics:
        raise UsageError(f"{where} contains no measured number.", hint="Check that the run has a scorer.")
    task = str(told["task"]).rpartition("/")[2]
    location = data.get("location") or data.get("name")
    result = TaskResult(
        name=task,
        version=str(told.get("task_version") or ""),
        n_shot=None,
        n=n,
        available=data.get("samples"),
        dataset=Dataset(path=location if _is_repo_id(location) else None),
        metrics=metrics,
    )
    limit, batch = config.get("limit"), (told.get("model_args") or {}).get("batch_size")
    packages = told.get("packages") or {}
    return Results.of(
        suites=group_by_suite({task: result}),
        subject=Subject(repo=_model(told) or name, form="other"),
        settings=Settings(
            backend="inspect",
            apply_chat_template=None,
            limit=_limit(limit),
            dtype="",
            batch_size=batch if isinstance(batch, int) and batch > 0 else None,
            device="",
        ),
        libraries={key: str(version) for key, version in packages.items() if key == "inspect_ai"},
        seconds=None,
    )


def _metrics(scores: list[Mapping[str, Any]], n: int) -> dict[str, Metric]:
    """The metrics of every scorer, the scorer's name behind where there are several."""
    found = {}
    for score in scores:
        scorer = str(score.get("name") or score.get("scorer") or "")
        given = score.get("metrics") or {}
        stderr = finite((given.get(_STDERR) or {}).get("value"))
        for key, metric in given.items():
            base = str(metric.get("name") or key).rpartition("/")[2]
            value = finite(metric.get("value"))
            if value is None or base in {_STDERR, "std", "var", "bootstrap_stderr", "ci"}:
                continue
            several = len(scores) > 1
            found[f"{base} ({scorer})" if several else base] = Metric(
                value=value,
                stderr=stderr if base in {"accuracy", "mean"} else None,
                n=int(score.get("scored_samples") or n) if len(scores) > 1 else n,
                higher_is_better=upward(base),
                filter=scorer if several else "none",
            )
    return found


def _model(told: Mapping[str, Any]) -> str:
    """The model, without the provider where inspect loads it itself; of a local one the path that it was given."""
    model, path = str(told.get("model") or ""), (told.get("model_args") or {}).get("model_path")
    provider = next((item for item in _PROVIDERS if model.startswith(item)), "")
    return str(path) if provider and isinstance(path, str) else model.removeprefix(provider)


def _is_repo_id(value: Any) -> bool:
    return isinstance(value, str) and value.count("/") == 1 and not value.startswith((".", "/", "~"))


def _limit(limit: Any) -> int | None:
    """How many samples were asked for; inspect takes a range, too."""
    if isinstance(limit, list) and len(limit) == 2:
        limit = limit[1] - limit[0]
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else None
