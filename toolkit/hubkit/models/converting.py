"""Pickled weights of a folder converted to safetensors, each file in a child process with limits.

adapter_model.bin                    ->  adapter_model.safetensors
pytorch_model.bin                    ->  model.safetensors
pytorch_model-00001-of-00002.bin     ->  model-00001-of-00002.safetensors, and the index of the shards
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import write_json
from hubkit.core.numbers import size
from hubkit.core.processes.parent import JobFailed, run_job
from hubkit.models import unpickling
from hubkit.models.tensors import INDEX, read_header

_NAMES = re.compile(r"(adapter_model|pytorch_model(?P<shard>-\d{5}-of-\d{5})?)\.bin")
_COPIED = re.compile(
    r"(adapter_config|config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|"
    r"trainer_state|train_results|all_results)\.json|tokenizer\.model|vocab\.txt|merges\.txt|chat_template\.jinja|"
    r"LICENSE|NOTICE"
)
_LIBRARIES = 16 * 1024**3
"""Bytes of address space that torch's libraries may map; what is used of it is far less."""
_SECONDS_A_GB = 60
_LEAST_SECONDS = 120


@dataclass(frozen=True)
class Converted:
    """One file: its name before and now, how many tensors it has and how large it is."""

    source: str
    target: str
    tensors: int
    bytes: int


def pickled_weights(folder: Path) -> list[Path]:
    """The pickled weights in ``folder``. UsageError when there are none."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", hint="Name a folder with pickled weights.")
    found = [path for path in sorted(folder.iterdir()) if _NAMES.fullmatch(path.name) and path.is_file()]
    if not found:
        raise UsageError(
            f"There are no pickled weights in {folder}.",
            hint="They are called adapter_model.bin or pytorch_model.bin.",
        )
    return found


def convert(folder: Path, out: Path, report: Callable[[str, float], None]) -> list[Converted]:
    """Convert the pickled weights of ``folder`` into the new folder ``out``, with the small files beside them.

    UsageError when there is nothing to convert or ``out`` is not empty. RefusedError when a file holds anything but
    tensors, or passes the limits; then ``out`` is left as it was.
    """
    sources = pickled_weights(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and is not empty.", hint="Name a new folder with -o.")
    made, existed = out.absolute(), out.exists()
    made.mkdir(parents=True, exist_ok=True)
    try:
        found = []
        for place, path in enumerate(sources):
            report(f"converting {path.name}", place / len(sources))
            found.append(_convert(path.absolute(), made))
        _write_index(found, made)
        for path in sorted(folder.iterdir()):
            if _COPIED.fullmatch(path.name) and path.is_file():
                shutil.copyfile(path, made / path.name)
    except BaseException:
        for path in made.iterdir():
            path.unlink()
        if not existed:
            made.rmdir()
        raise
    return found


def _convert(path: Path, out: Path) -> Converted:
    nbytes = path.stat().st_size
    name = path.name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
    memory, seconds = _LIBRARIES + 4 * nbytes, max(_LEAST_SECONDS, nbytes * _SECONDS_A_GB // 10**9)
    job = {"source": str(path), "target": str(out / name)}
    script = Path(str(unpickling.__file__))
    try:
        answer = run_job(script, job, memory=memory, cpu_seconds=seconds, timeout=2 * seconds)
    except JobFailed as error:
        raise RefusedError(
            f"{path.name} was not converted: {error}.", hint=f"It was given {size(memory)} and {seconds} s."
        ) from error
    if "error" in answer:
        raise RefusedError(
            f"{path.name} was not converted: {answer['error']}.",
            hint="Only tensors are taken from a pickle. Save the weights as safetensors where they were trained.",
        )
    return Converted(path.name, name, len(answer["tensors"]), (out / name).stat().st_size)


def _write_index(found: list[Converted], out: Path) -> None:
    """The index of the shards, from the headers of what was written."""
    shards = [item.target for item in found if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", item.target)]
    if not shards:
        return
    headers = {name: read_header(out / name) for name in shards}
    places = {tensor: name for name, header in headers.items() for tensor in header.tensors}
    total = sum(tensor.size for header in headers.values() for tensor in header.tensors.values())
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})
