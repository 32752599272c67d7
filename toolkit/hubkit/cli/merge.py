"""`hubkit merge`: merge an adapter into its base, anybody's, into a folder that loads as a model of its own."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options
from hubkit.cli.places import Place, place
from hubkit.core.errors import UsageError
from hubkit.core.late_compiling import compile_late
from hubkit.core.numbers import count, counted, duration, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.models.merging.merge import MergeReport

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(kB|MB|GB|TB)", re.IGNORECASE)
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def _bytes(ctx: click.Context, option: click.Parameter, value: str) -> int:
    given = _SIZE.fullmatch(value.strip())
    if given is None or not (number := int(float(given[1]) * _UNITS[given[2].lower()])):
        raise UsageError(f"{value!r} is not a size.", hint="Write it as 5GB or 500MB.")
    return number


@click.command()
@click.argument("base", metavar="BASE")
@click.argument("adapter", metavar="ADAPTER")
@click.option("-o", "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Write it here.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Round the merged weights to this dtype. Default: that of the base's weights.",
)
@click.option(
    "--max-shard-size",
    "max_shard_bytes",
    default="5GB",
    show_default=True,
    metavar="SIZE",
    callback=_bytes,
    help="Write at most this much into one file of weights.",
)
@hub_option
@output_options
def merge(base: str, adapter: str, output: Path, dtype: str | None, max_shard_bytes: int, hub_name: str | None) -> None:
    """Merge a LoRA adapter into its base model.

    BASE and ADAPTER are folders, or repos as namespace/name or namespace/name@revision. The weights are merged tensor
    by tensor in float32 and rounded once; where that is impossible, PEFT merges them in memory. The tokenizer and the
    chat template are the adapter's where it has them, and the base's otherwise. The exit code is 3 if the adapter
    does not fit the base, or cannot be merged correctly.

    \b
    Examples:
      hubkit merge ./base ./adapter -o ./merged
      hubkit merge meta-llama/Llama-3.2-1B me/my-adapter@v2 -o merged --dtype bfloat16 --hub huggingface
    """
    from hubkit.models.merging.companions import own_dtype, tokenizer_of
    from hubkit.models.merging.merge import merge

    compile_late()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, and it warns of kernels for training
    from_base = place(base, hub_name, adapter=False)
    from_adapter = place(adapter, hub_name, adapter=True)
    tokenizer = tokenizer_of(from_adapter.folder)
    began = time.monotonic()
    with output_of().steps(["merge"]) as view:
        view.start("merge")
        report = merge(
            from_base.folder,
            from_adapter.folder,
            output,
            dtype=dtype or own_dtype(from_base.folder),
            max_shard_bytes=max_shard_bytes,
            tokenizer=tokenizer,
            report=lambda figure, share: view.progress("merge", figure, share),
        )
        view.done("merge", f"{counted(report.tensors, 'tensor')}, {size(report.bytes)}", time.monotonic() - began)
    if report.way == "peft":
        output_of().warn(f"PEFT merged it, all in memory: {report.reason}.")
    value = {
        **report.to_json(),
        "folder": str(output),
        "base": from_base.to_json(),
        "adapter": from_adapter.to_json(),
        "tokenizer": "adapter" if tokenizer else "base",
    }
    output_of().result(value, *_lines(report, output, from_base, from_adapter, tokenizer is not None))


def _lines(
    report: MergeReport, output: Path, base: Place, adapter: Place, own_tokenizer: bool
) -> Iterator[RenderableType]:
    changed = ", ".join(f"{module} {count(number)}" for module, number in sorted(report.targets.items()))
    way = "tensor by tensor" if report.way == "streamed" else "by PEFT"
    facts = [
        ("base", str(base)),
        ("adapter", str(adapter)),
        ("changed tensors", f"{count(report.changed)} of {count(report.tensors)}: {changed}"),
        ("weights", f"{counted(len(report.files), 'file')}, {size(report.bytes)} in {report.dtype}"),
        ("tokenizer", "the adapter's" if own_tokenizer else "the base's"),
        *((f"config.json: {key}", str(value)) for key, value in report.config.items()),
        ("merged", f"{way}, in {duration(report.seconds)}"),
    ]
    yield f"Merged into {output}"
    yield table(("", ""), facts)
