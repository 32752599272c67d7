"""GGUF files of a release, written again from its merged weights and compared: a part of `hubkit verify --rederive`.

A GGUF file holds nothing but the model's files, its type and its name (:mod:`hubkit.models.gguf.write`), so the same
bytes must come out. Where they do not, the tensors and keys that differ are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import digests
from hubkit.core.numbers import counted
from hubkit.models.gguf.header import GgufHeader, read_gguf_header
from hubkit.models.gguf.layout import KINDS
from hubkit.models.gguf.write import write_gguf


@dataclass(frozen=True)
class GgufAgain:
    """The outcome for the file at ``path``: its ``kind``, and what differs; nothing when it is equal byte for byte.

    ``not_compared`` says why it could not be written again; None when it was.
    """

    path: str
    kind: str | None
    bytes: int
    differences: tuple[str, ...] = ()
    not_compared: str | None = None


def gguf_again(weights: Path, there: Path, scratch: Path, path: str) -> GgufAgain:
    """Write the file ``there``, which is ``path`` of a release, again from the model in ``weights``, and compare.

    ``scratch`` is a folder for what is written.
    """
    size, made = there.stat().st_size, scratch / "again.gguf"
    try:
        header = read_gguf_header(there)
    except RefusedError as error:
        return GgufAgain(path, None, size, (error.message,))
    if (kind := header.kind) not in KINDS or kind is None:
        written_by = f"llama.cpp wrote {kind.upper()}, and its build counts for the bytes; " if kind else ""
        return GgufAgain(path, kind, size, not_compared=f"{written_by}hubkit itself writes only {', '.join(KINDS)}")
    try:
        write_gguf(weights, made, kind, name=header.text("general.name"))
        if digests(made).sha256 == digests(there).sha256:
            return GgufAgain(path, kind, size)
        return GgufAgain(path, kind, size, tuple(_differences(header, read_gguf_header(made))))
    except (RefusedError, UsageError) as error:
        return GgufAgain(path, kind, size, not_compared=error.message)
    finally:
        made.unlink(missing_ok=True)


def _differences(there: GgufHeader, made: GgufHeader) -> Iterator[str]:
    """The keys and tensors that differ, by name."""
    published, again = dict(there.parts()), dict(made.parts())
    names = [name for name in {**again, **published} if published.get(name) != again.get(name)]
    for name in names[:20]:
        state = "is missing" if name not in published else "is extra" if name not in again else "differs"
        yield f"{name} {state}"
    if len(names) > 20:
        yield f"{counted(len(names) - 20, 'more part')}"
    if not names:
        yield "the bytes between its parts differ"
