"""`hubkit readers`: which programs read a model, in which versions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import hub_option, output_of, output_options
from hubkit.cli.places import Place, place
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import count, counted
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.models.readers.comparing import Cell
    from hubkit.models.readers.matrix import Matrix, Model

_NAMES = ("transformers", "transformers-4", "transformers-4.36", "peft-0.6", "transformers-js", "llama-cpp", "vllm")

_ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
_LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
_QUANTIZED = re.compile(r"(^|[-_.])i?q\d")


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--with",
    "named",
    metavar="READER",
    type=click.Choice(_NAMES),
    multiple=True,
    help=f"Read it with this program (several times): {', '.join(_NAMES)}. Without it, with all of them.",
)
@click.option(
    "--base",
    metavar="BASE",
    help="Load the adapter on this base, a folder or a repo. Without it, on the repo that adapter_config.json names.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ask these prompts: JSON lines with 'messages'. Without it, seven conversations of hubkit's own.",
)
@click.option("--max-new-tokens", type=click.IntRange(1, 4096), default=64, show_default=True, help="Cut answers here.")
@hub_option
@output_options
def readers(
    model: str,
    named: Sequence[str],
    base: str | None,
    prompts: Path | None,
    max_new_tokens: int,
    hub_name: str | None,
) -> None:
    """Load and ask a model in other versions of transformers and PEFT.

    Other programs are transformers.js (its tokenizer and chat template) and llama.cpp (GGUF files). MODEL is a folder,
    or a repo as namespace/name or namespace/name@revision, with an adapter in its folder adapter/ if it has one. Each
    program runs in an environment of its own with pinned packages, which is installed once under hubkit's home from
    PyPI or npm. Its token ids and greedy answers are compared with those of the installed transformers, and an answer
    must end at the end-of-turn token by the model's own files. Exit code 3 if one fails; 2 or 5 if one that was named
    cannot be installed.

    \b
    Examples:
      hubkit readers ./merged
      hubkit readers me/my-model@main --with transformers-4 --with peft-0.6
      hubkit readers me/my-model --prompts held-out.jsonl --json
    """
    from hubkit.models.gguf.prompts import read_rows
    from hubkit.models.readers.asking import Questions
    from hubkit.models.readers.matrix import read_by

    rows = read_rows(prompts) if prompts else []
    names = named or _NAMES
    source = place(model, hub_name, adapter=False, more=partial(_beside, names=names))
    questions = Questions.of([row["messages"] for row in rows], max_new_tokens=max_new_tokens)
    found = read_by(
        names,
        _model(source, base, hub_name),
        questions,
        home=hubkit_home(),
        report=output_of().say,
    )
    output_of().result({"model": source.to_json(), **found.to_json()}, *_lines(found, source))
    if failed := [cell for cell in found.cells if cell.status == "fails"]:
        raise RefusedError(
            f"{counted(len(failed), 'of the readers', 'of the readers')} cannot use {source}.",
            hint="The table says why. docs/readers.md says what helps.",
        )
    for name in named:
        if name in found.errors:
            raise found.errors[name]


def _model(source: Place, base: str | None, hub_name: str | None) -> Model:
    """What there is of the model: its adapter with the base, and GGUF files."""
    from hubkit.models.readers.matrix import Model

    folder = source.folder
    if not (folder / "config.json").is_file():
        raise UsageError(f"There is no config.json in {source}.", hint="Name a folder or a repo with merged weights.")
    found = (*folder.glob("*.gguf"), *folder.glob("gguf/*.gguf"))
    files = tuple(sorted(path for path in found if _is_model(path.name)))
    adapter = folder / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        return Model(folder, gguf=files)
    try:
        return Model(folder, adapter, _base(adapter, base, hub_name), files)
    except HubkitError as error:
        return Model(folder, gguf=files, no_adapter=f"its base is not at hand: {error.message}")


def _beside(paths: Collection[str], *, names: Collection[str]) -> Iterator[str]:
    """What the readers ``names`` need of a repo beside its merged weights."""
    yield from _ADAPTER
    if "llama-cpp" in names:
        yield from (
            str(path)
            for path in map(PurePosixPath, paths)
            if path.suffix == ".gguf" and str(path.parent) in {".", "gguf"} and not _no_model(path.name)
        )


def _is_model(name: str) -> bool:
    """Whether a GGUF file called ``name`` is one to load: llama.cpp finds the other shards from the first."""
    return not (_LATER_SHARD.search(name) or _no_model(name))


def _no_model(name: str) -> bool:
    """Whether it goes by its name as what llama.cpp keeps beside a model: a projector, or an importance matrix.

    'model-imatrix-Q4_K_M.gguf' is a model that was quantized with one.
    """
    low = name.lower()
    return "mmproj" in low or ("imatrix" in low and not _QUANTIZED.search(low))


def _base(adapter: Path, base: str | None, hub_name: str | None) -> Path:
    """The folder of the base that the adapter is for."""
    from hubkit.models.merging.companions import read_settings

    if base is None:
        settings = read_settings(adapter, "adapter_config.json")
        name, commit = settings.get("base_model_name_or_path"), settings.get("revision")
        base = f"{name}@{commit}" if commit else str(name)
        if Path(base).is_dir():  # a path that strangers wrote is not followed
            raise UsageError(f"adapter_config.json names the folder {base}.", hint="Name the base with --base.")
    return place(base, hub_name, adapter=False).folder


def _lines(found: Matrix, source: Place) -> Iterator[RenderableType]:
    yield f"{source}, read on {found.date} ({found.machine}):"
    yield table(("program", "what", "", "same ids", "stopped", "same answers"), [_row(cell) for cell in found.cells])
    for cell in found.cells:
        if cell.why:
            yield f"{cell.reader}, {cell.what}: {cell.why}."
        for note in cell.notes:
            yield f"{cell.reader}, {cell.what}: {note}"


def _row(cell: Cell) -> tuple[Any, ...]:
    versions = ", ".join(
        f"{name} {cell.versions[name]}" for name in cell.versions if name not in {"torch", "tokenizers"}
    )
    of = "" if cell.answers is None else f" of {count(cell.answers)}"
    return (
        versions or cell.reader,
        cell.what,
        cell.status,
        "" if cell.conversations is None else count(cell.conversations),
        "" if cell.stopped is None else f"{count(cell.stopped)}{of}",
        "" if cell.same is None else f"{count(cell.same)}{of}",
    )
