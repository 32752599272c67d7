"""`hubkit gguf`: a model as a GGUF file for llama.cpp, Ollama and LM Studio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import hub_option, output_of, output_options
from hubkit.cli.places import Place, place
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.intervals import wilson
from hubkit.core.numbers import count, counted, duration, share, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.models.chat.stop_rate import StopRate
    from hubkit.models.gguf.ollama import Companions
    from hubkit.models.gguf.write import GgufReport

TYPES = (
    "f16", "bf16", "q8_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1",
    "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
"""FILE_TYPES of hubkit.models.gguf.layout, which takes longer to import."""


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write this file, or a file into this folder.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(TYPES, case_sensitive=False),
    default="f16",
    show_default=True,
    metavar="TYPE",
    help="Store the matrices in this type: f16, bf16 or q8_0; or q4_k_m and others, which llama-cpp-python writes. "
    "Vectors and norms stay in 32 bits.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure the stop rate of the file on these prompts, by llama-cpp-python: JSON lines with 'messages'.",
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Cut answers here.")
@click.option(
    "--at-least",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    help="End with exit code 3 if the stop rate is below this share, such as 0.95.",
)
@click.option(
    "--ollama",
    is_flag=True,
    help="Write a Modelfile, and the files template, params and system of Ollama, beside the file.",
)
@hub_option
@output_options
def gguf(
    model: str,
    output: Path,
    kind: str,
    prompts: Path | None,
    max_new_tokens: int,
    at_least: float | None,
    ollama: bool,
    hub_name: str | None,
) -> None:
    """Write a model as GGUF, for llama.cpp, Ollama and LM Studio.

    MODEL is a folder, or a repo as namespace/name or namespace/name@revision, with safetensors in 16 or 32 bits. The
    tokenizer, the chat template and every token that ends an answer are written with it, read back and compared. An
    architecture or tokenizer that llama.cpp would run differently is refused: exit code 3. If llama-cpp-python is
    installed, it loads the vocabulary of the file, which must encode conversations to the token ids of transformers:
    exit code 4 if it does not. With --prompts, llama.cpp answers them, and the share of answers that end is measured.

    \b
    Examples:
      hubkit gguf ./merged -o model-F16.gguf
      hubkit gguf me/my-model@main -o out/ --type q8_0 --hub huggingface
      hubkit gguf ./merged -o out/ --type q4_k_m
      hubkit gguf ./merged -o out/ --prompts held-out.jsonl --at-least 0.95
    """
    from hubkit.models.gguf.checking import same_token_ids
    from hubkit.models.gguf.layout import FILE_TYPES
    from hubkit.models.gguf.library import has_runtime
    from hubkit.models.gguf.prompts import read_prompts
    from hubkit.models.gguf.write import file_name, write_gguf

    if at_least is not None and prompts is None:
        raise UsageError("--at-least needs prompts to measure with.", hint="Name them with --prompts FILE.")
    rows = read_prompts(prompts) if prompts else []
    chosen = next(item for item in FILE_TYPES if item == kind)
    source = place(model, hub_name, adapter=False)
    name = model.partition("@")[0].rpartition("/")[2] if source.commit else source.folder.resolve().name
    file = output if output.suffix == ".gguf" else output / file_name(name, chosen)
    for_ollama = _for_ollama(source, file) if ollama else None
    with output_of().steps(["write", *(["measure"] if rows else [])]) as view:
        view.start("write")
        began = time.monotonic()
        report = write_gguf(
            source.folder, file, chosen, name=name, report=lambda figure, done: view.progress("write", figure, done)
        )
        view.done("write", f"{counted(len(report.tensors), 'tensor')}, {size(report.bytes)}", time.monotonic() - began)
        compared = same_token_ids(source.folder, file) if has_runtime() else None
        rate = _measured(view, report, rows, max_new_tokens) if rows else None
    beside = for_ollama.write(file.parent) if for_ollama else []
    for note in (*report.notes, *(for_ollama.notes if for_ollama else ())):
        output_of().warn(note)
    value = {
        **report.to_json(),
        "model": source.to_json(),
        "compared_texts": compared,
        "stop_rate": rate.to_json() if rate else None,
        "ollama": [path.name for path in beside],
    }
    output_of().result(value, *_lines(report, source, compared, rate, ollama=bool(beside)))
    if rate and at_least is not None and rate.rate < at_least:
        raise RefusedError(
            f"The stop rate of {file} is {share(rate.rate)}, below {share(at_least)}.",
            hint="Do not publish this file. Compare it with the stop rate of the model that it was written from.",
        )


def _for_ollama(source: Place, file: Path) -> Companions:
    """Ollama's files, which are to lie beside ``file``; UsageError when others are there."""
    from hubkit.models.gguf.ollama import of_model

    companions = of_model(source.folder, file)
    companions.refuse_others(file.parent)
    if companions.reason:
        output_of().warn(f"There is no template for Ollama: {companions.reason}")
    return companions


def _measured(view: Any, report: GgufReport, rows: list[dict[str, Any]], max_new_tokens: int) -> StopRate:
    """The stop rate of the file that was written."""
    from hubkit.models.gguf.measuring import measure_gguf

    view.start("measure")
    began = time.monotonic()
    rate = measure_gguf(
        report.file,
        rows,
        report.end_of_turn_of(),
        max_new_tokens=max_new_tokens,
        kind=report.kind,
        report=lambda figure, done: view.progress("measure", figure, done),
    )
    view.done("measure", f"stop rate {share(rate.rate)}", time.monotonic() - began)
    return rate


def _lines(
    report: GgufReport, source: Place, compared: int | None, rate: StopRate | None, *, ollama: bool
) -> Iterator[RenderableType]:
    worst = report.worst
    kept = "with its chat template" if report.template else "without a chat template: there is none"
    facts = [
        ("model", str(source)),
        ("architecture", f"{report.architecture}, {kept}"),
        ("answers end at", ", ".join(f"{token} ({count(number)})" for token, number in report.stops.items())),
        ("weights", f"{counted(len(report.tensors), 'tensor')}, {size(report.bytes)} in {report.kind.upper()}"),
        ("largest error", _error(worst.relative_error, worst.name)),
        ("token ids", _compared(compared)),
        *([("stop rate", _rate(rate))] if rate else []),
        ("sha256", report.sha256),
        ("written", f"and read back, in {duration(report.seconds)}"),
    ]
    yield f"Written to {report.file}"
    yield table(("", ""), facts)
    if ollama:
        yield f"For Ollama: ollama create NAME -f {report.file.parent / 'Modelfile'}"


def _error(relative: float, name: str) -> str:
    if not relative:
        return "none: every number is the source's"
    return f"{relative:.2g} of the numbers' root mean square, in {name}"


def _rate(rate: StopRate) -> str:
    low, high = wilson(rate.stopped, rate.prompts)
    return (
        f"{share(rate.rate)}: {count(rate.stopped)} of {counted(rate.prompts, 'answer')} by {rate.generated_by}"
        f" (95 % interval {share(low)} to {share(high)})"
    )


def _compared(texts: int | None) -> str:
    if texts is None:
        return "not compared: llama-cpp-python is not installed"
    return f"the same as transformers' in {counted(texts, 'text')}"
