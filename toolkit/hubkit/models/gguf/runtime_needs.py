"""What a release with GGUF files cannot do where llama-cpp-python is not installed."""

from __future__ import annotations

from collections.abc import Sequence

from hubkit.core.findings import Finding
from hubkit.models.gguf.layout import KINDS
from hubkit.models.gguf.library import RUNTIME

_INSTALL = "pip install 'hubkit[llama-cpp]' (it is compiled, for a few minutes)"


def without_runtime(types: Sequence[str], *, benchmarks: bool, enforced: bool) -> Finding:
    """What to tell where it is missing: an error, unless the files can be published unmeasured.

    ``benchmarks``: some are to be run on the files. ``enforced``: their stop rate must pass the gate.
    """
    quantized = [kind for kind in types if kind not in KINDS]
    if quantized:
        names = ", ".join(quantized)
        text = f"gguf.types: {names}: written by llama.cpp's quantizer, but {RUNTIME} is not installed."
        return Finding("error", text, f"{_INSTALL}, or take {', '.join(KINDS)}.", exit_code=1)
    if benchmarks:
        text = f"gguf.benchmarks are run by {RUNTIME}, which is not installed."
        return Finding("error", text, f"{_INSTALL}, or remove this key.", exit_code=1)
    if enforced:
        text = f"gguf: the gate is enforced for the GGUF files, but {RUNTIME} is not installed, which measures them."
        return Finding("error", text, f"{_INSTALL}, or set `gguf: {{gate: report}}`.", exit_code=1)
    return Finding("warning", f"gguf: {RUNTIME} is not installed, so the GGUF files are published unmeasured.")
