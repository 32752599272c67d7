"""How `hubkit verify --rederive` is printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hubkit.core.numbers import counted, duration, short_commit, size
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.publishing.rederiving.gguf_place import GgufRederived
    from hubkit.publishing.rederiving.weights import Rederived

_LISTED = 20
"""Tensors that differ are listed up to this many; ``--json`` has all."""
NOT_MADE = ("generation_config.json", "tokenizer_config.json", "chat_template.jinja", "cards")
"""What the files of a release are compared with the manifest for, and no more."""
NOT_MADE_OF_GGUF = ("Ollama's files", "card")
"""The same where there are GGUF files alone."""


def rederived_lines(found: Rederived | GgufRederived) -> Iterator[RenderableType]:
    """What came out of deriving again, and with which versions."""
    from rich.text import Text

    from hubkit.publishing.rederiving.weights import Rederived

    rest: tuple[str, ...]
    if isinstance(found, Rederived):
        yield from _weights_lines(found)
        weights, rest, way = "the merged weights", NOT_MADE, "merged with: "
    else:
        rest, way = NOT_MADE_OF_GGUF, "written with: "
        weights = f"the weights of {printable(found.repo)}@{short_commit(found.commit)}"
    for file in found.gguf:
        if file.not_compared:
            yield Text.assemble(("not compared: ", "yellow"), printable(f"{file.path}: {file.not_compared}"))
        elif file.error is not None:
            yield (
                f"{printable(file.path)} has all keys of {weights}, and its numbers are as near as"
                f" {str(file.kind).upper()} is: at most {file.error:.2g} of a tensor's root mean square away. Not every"
                " byte was compared: llama.cpp's quantizer is not installed, or another build of it"
            )
        elif not file.differences:
            kind = str(file.kind).upper()
            yield f"{printable(file.path)} is {weights} written again as {kind}: every byte equal"
        for text in file.differences:
            yield Text.assemble(("rederived: ", "red"), f"{printable(file.path)}: ", printable(text))
    yield Text.assemble(("not made again: ", "dim"), ", ".join(rest), " (they match the manifest)")
    yield Text.assemble((way, "dim"), "; ".join(_versions(found)))


def _weights_lines(found: Rederived) -> Iterator[RenderableType]:
    from rich.text import Text

    merge, base = found.merge, f"{printable(found.base)}@{short_commit(found.commit)}"
    way = "" if merge.way == "streamed" else f", by PEFT: {merge.reason}"
    if not merge.differences:
        yield (
            f"The weights are the adapter merged again into {base} in {found.dtype}{way}: all "
            f"{counted(merge.tensors, 'tensor')} equal in every bit, {size(merge.bytes)} in {duration(merge.seconds)}"
        )
    else:
        for item in merge.differences[:_LISTED]:
            yield Text.assemble(("rederived: ", "red"), f"{printable(item.name)} ", printable(item.message))
        if (more := len(merge.differences) - _LISTED) > 0:
            yield f"and {counted(more, 'more tensor')}; --json lists all"
    for text in found.beside:
        yield Text.assemble(("rederived: ", "red"), printable(text))


def _versions(found: Rederived | GgufRederived) -> Iterator[str]:
    for item in found.versions:
        then = printable(item.then) if item.then is not None else "not in the manifest"
        yield f"{item.name} {then}" + ("" if item.then == item.now else f" (here {item.now})")
