"""Read the results of any program into the one model of :mod:`hubkit.evals.results`.

``read_path`` takes our own results.json; lm-eval's JSON (0.3 and 0.4), or the folder that its ``--output_path`` leaves
(:mod:`~hubkit.evals.lm_eval_json`); tables as text (:mod:`~hubkit.evals.printed_tables`); lighteval's JSON
(:mod:`~hubkit.evals.lighteval_json`) and CSV (:mod:`~hubkit.evals.csv_table`); inspect_ai's logs
(:mod:`~hubkit.evals.inspect_log`); the records of Every Eval Ever (:mod:`~hubkit.evals.every_eval_ever`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core import numbers
from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.evals.csv_table import read_csv
from hubkit.evals.every_eval_ever import is_record, read_record
from hubkit.evals.inspect_log import is_archive, is_inspect, read_archive, read_inspect
from hubkit.evals.lighteval_json import read_lighteval
from hubkit.evals.lm_eval_json import read_lm_eval_file
from hubkit.evals.parsing import KNOWN_FILES
from hubkit.evals.printed_tables import read_text
from hubkit.evals.results import RESULTS_FILE, Results, parse_results

MAX_BYTES = 64_000_000
"""lm-eval's results are kilobytes; what is larger holds samples or is something else."""


@dataclass(frozen=True)
class ResultFile:
    """Results with the file that they were in; ``passed_over`` are older files of the same model beside it."""

    path: Path
    results: Results
    passed_over: tuple[Path, ...] = ()


def read_path(path: Path) -> list[ResultFile]:
    """The results in ``path``: one of a file, one for each model of a folder. UsageError when there are none."""
    if path.is_dir():
        return list(_folder(path))
    return [ResultFile(path, read_file(path))]


def _folder(folder: Path) -> Iterator[ResultFile]:
    if (folder / RESULTS_FILE).is_file():
        yield ResultFile(folder / RESULTS_FILE, read_file(folder / RESULTS_FILE))
        return
    newest: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("results_*.json"), key=lambda item: item.name):
        newest.setdefault(path.parent, []).append(path)
    if not newest:
        raise UsageError(f"{folder} contains no results: no {RESULTS_FILE} and no results_*.json.", hint=KNOWN_FILES)
    for paths in newest.values():
        yield ResultFile(paths[-1], read_file(paths[-1]), tuple(paths[:-1]))


def read_file(path: Path) -> Results:
    """The results in the file ``path``, whatever wrote it. UsageError when it is none of the known kinds."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{path} is too large to be results ({numbers.size(path.stat().st_size)}).", hint=KNOWN_FILES
            )
        content = path.read_bytes()
        if is_archive(content):
            return read_archive(content, str(path), path.stem)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"The file {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}.", hint=KNOWN_FILES) from error
    name = path.stem
    if path.suffix.lower() == ".csv":
        return read_csv(text, str(path), name)
    if path.suffix.lower() != ".json" and not text.lstrip().startswith("{"):
        return read_text(text, str(path), name)
    try:
        value = load_json(text.encode())
    except JsonError as error:
        raise UsageError(f"{path} {error}.", hint=KNOWN_FILES) from error
    return read_value(value, str(path), name)


def read_value(value: Any, where: str, name: str) -> Results:
    """The results in the JSON ``value``; ``where`` is what messages call it, ``name`` the model when it has none."""
    if isinstance(value, dict):
        if "suites" in value and "subject" in value:
            return parse_results(value, where)
        if is_inspect(value):
            return read_inspect(value, where, name)
        if is_record(value):
            return read_record(value, where, name)
        if isinstance(value.get("results"), dict):
            if "config_general" in value:
                return read_lighteval(value, where, name)
            return read_lm_eval_file(value, where, name)
    raise UsageError(f"{where} does not hold benchmark results.", hint=KNOWN_FILES)
