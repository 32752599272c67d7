"""bitsandbytes without the compiler, until something is compiled.

bitsandbytes 0.50 hands two functions to ``torch.compile`` when it is imported, and peft imports it. That loads
``torch._inductor``, which takes a fifth of the processor time that importing peft takes: a second in each worker of a
release. With :func:`compile_late` each of these functions is compiled when it is called for the first time.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

COMPILING = "bitsandbytes.backends.default.ops"
"""The module that compiles functions while it is imported."""


class _Loader(importlib.abc.Loader):
    """Loads the module as ever, with a ``torch.compile`` that waits."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        import torch

        now = torch.compile
        torch.compile = functools.partial(_late, now)
        try:
            self._loader.exec_module(module)
        finally:
            torch.compile = now


class _Finder(importlib.abc.MetaPathFinder):
    """Finds that one module, as Python does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != COMPILING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _late(compile_now: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """What ``torch.compile`` returns for ``function``, made when it is called."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        made: Callable[..., Any] = compile_now(function, **options)
        return made

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call


def compile_late() -> None:
    """Import bitsandbytes, whoever does it later in this process, without loading PyTorch's compiler."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
