"""GGUF files of a release, written again from its merged weights and compared: a part of `hubkit verify --rederive`.

A GGUF file holds nothing but the model's files, its type and its name (:mod:`hubkit.models.gguf.write`), so the same
bytes must come out. Where they do not, the tensors and keys that differ are named. The bytes of a type that llama.cpp's
quantizer writes depend on its build, too: where they are others, every key must be the same, and the numbers of each
tensor as near to the weights as its type can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.core.files import digests
from hubkit.core.numbers import counted
from hubkit.models.gguf.header import GgufHeader, read_gguf_header
from hubkit.models.gguf.layout import FILE_TYPES, KINDS
from hubkit.models.gguf.library import has_runtime
from hubkit.models.gguf.write import WrittenTensor, read_quantized, write_gguf

GGUF_FILES = "*.[gG][gG][uU][fF]"
"""The files that are compared here, as a pattern: programs load one whatever the case of its name."""
_LISTED = 20
_FARTHEST: Mapping[str, float] = {
    "F32": 0.0, "F16": 0.005, "BF16": 0.005, "Q8_0": 0.014, "Q6_K": 0.06, "Q5_0": 0.12, "Q5_1": 0.12, "Q5_K": 0.12,
    "Q4_0": 0.25, "Q4_1": 0.25, "Q4_K": 0.25, "IQ4_NL": 0.32, "IQ4_XS": 0.32, "Q3_K": 0.4, "Q2_K": 0.8,
}  # fmt: skip
"""Root mean square of a tensor's errors, in terms of its numbers', that rounding to a type does not exceed.

A block of n numbers up to a has a root mean square of at least a / sqrt(n). Rounded in steps of a / k, its error is
about a / k / sqrt(12): at most sqrt(n / 12) / k of it. For Q8_0, n is 32 and k 127.
"""


@dataclass(frozen=True)
class GgufAgain:
    """The outcome for the file at ``path``: its ``kind``, and what differs; nothing when it is equal byte for byte.

    ``error``: it is not, but a quantized file whose keys are the same, and this is the error of its worst tensor, in
    terms of the numbers' root mean square. ``not_compared`` says why it could not be compared; None when it was.
    """

    path: str
    kind: str | None
    bytes: int
    differences: tuple[str, ...] = ()
    not_compared: str | None = None
    error: float | None = None


def is_gguf(path: str) -> bool:
    """Whether ``path`` is one of :data:`GGUF_FILES`."""
    return path.lower().endswith(".gguf")


def gguf_again(weights: Path, there: Path, scratch: Path, path: str) -> GgufAgain:
    """Write the file ``there``, which is ``path`` of a release, again from the model in ``weights``, and compare.

    ``scratch`` is a folder for what is written.
    """
    size, made = there.stat().st_size, scratch / "again.gguf"
    try:
        header = read_gguf_header(there)
    except RefusedError as error:
        return GgufAgain(path, None, size, (error.message,))
    if (kind := header.kind) is None:
        return GgufAgain(path, None, size, not_compared=f"hubkit writes only {', '.join(FILE_TYPES)}")
    name = header.text("general.name")
    try:
        if kind in KINDS or has_runtime():
            write_gguf(weights, made, kind, name=name)
            if digests(made).sha256 == digests(there).sha256:
                return GgufAgain(path, kind, size)
        if kind in KINDS:
            return GgufAgain(path, kind, size, tuple(_differences(header, read_gguf_header(made))))
        return _nearness(GgufAgain(path, kind, size), read_quantized(weights, there, kind, name=name))
    except ConflictError as error:
        return GgufAgain(path, kind, size, (error.message,))
    except (RefusedError, UsageError) as error:
        return GgufAgain(path, kind, size, not_compared=error.message)
    finally:
        made.unlink(missing_ok=True)


def _nearness(file: GgufAgain, tensors: Sequence[WrittenTensor]) -> GgufAgain:
    """``file`` with what differs: the tensors that are further from the weights than their type is."""
    far = [
        f"tensor {item.name} is {item.relative_error:.2g} of its root mean square away from the weights, in {item.type}"
        for item in tensors
        if not item.relative_error <= _FARTHEST.get(item.type, 0)
    ]
    if far:
        more = [f"and {counted(len(far) - _LISTED, 'more tensor')}"] if len(far) > _LISTED else []
        return replace(file, differences=(*far[:_LISTED], *more))
    return replace(file, error=max(item.relative_error for item in tensors))


def _differences(there: GgufHeader, made: GgufHeader) -> Iterator[str]:
    """The keys and tensors that differ, by name."""
    published, again = dict(there.parts()), dict(made.parts())
    names = [name for name in {**again, **published} if published.get(name) != again.get(name)]
    for name in names[:_LISTED]:
        state = "is missing" if name not in published else "is extra" if name not in again else "differs"
        yield f"{name} {state}"
    if len(names) > _LISTED:
        yield f"{counted(len(names) - _LISTED, 'more part')}"
    if not names:
        yield "the bytes between its parts differ"
