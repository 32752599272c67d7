"""`hubkit convert`: pickled weights become safetensors, in a process with limits."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.numbers import counted, size
from hubkit.core.output import table


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Write it here.")
@output_options
def convert(folder: Path, output: Path) -> None:
    """Convert pickled weights to safetensors.

    FOLDER has adapter_model.bin or pytorch_model.bin, or its shards. A pickle can run code when it is loaded, so each
    file is read in a process of its own with limits on memory and time, by torch.load with weights_only=True, which
    takes tensors and nothing else. The configs and the tokenizer are copied. The exit code is 3 if a file holds
    anything but tensors.

    \b
    Examples:
      hubkit convert ./out -o out-safetensors
    """
    from hubkit.models.converting import convert as convert_folder

    with output_of().steps(["convert"]) as view:
        view.start("convert")
        began = time.monotonic()
        found = convert_folder(folder, output, lambda figure, share: view.progress("convert", figure, share))
        view.done("convert", counted(len(found), "file"), time.monotonic() - began)
    value = {"folder": str(output), "files": [vars(item) for item in found]}
    rows = [(item.source, item.target, counted(item.tensors, "tensor"), size(item.bytes)) for item in found]
    output_of().result(value, f"Converted into {output}", table(("from", "to", "tensors#", "size#"), rows))
