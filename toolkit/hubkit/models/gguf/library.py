"""The `gguf` library and llama-cpp-python, imported on use: both are extras, and each says how it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hubkit.core.errors import HubkitError, UsageError

RUNTIME = "llama-cpp-python"


def gguf_library() -> Any:
    """The module `gguf`; UsageError when it is not installed, HubkitError when it cannot be imported."""
    return _imported("gguf", "gguf", "pip install 'hubkit[gguf]'")


def runtime() -> Any:
    """The module `llama_cpp`; UsageError when it is not installed, HubkitError when it cannot be imported."""
    return _imported("llama_cpp", RUNTIME, "pip install 'hubkit[llama-cpp]' (it is compiled, for a few minutes)")


def has_runtime() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


def _imported(module: str, name: str, remedy: str) -> Any:
    if find_spec(module) is None:
        raise UsageError(f"{name} is not installed.", hint=f"{remedy}.")
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # its shared library, or one that this needs, is not there
        raise HubkitError(
            f"{name} is installed and cannot be imported: {error}.",
            hint=f"Install it again with --force-reinstall --no-cache-dir: {remedy}.",
        ) from error
