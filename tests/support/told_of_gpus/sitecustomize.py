"""Tells accelerate that the CPU processes of a training are GPUs, so that it shards the weights by FSDP, over gloo.

Python imports this when the folder is in PYTHONPATH. accelerate itself leaves FSDP out on CPUs.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from typing import Any

_MODULE = "accelerate.state"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            begin = module.PartialState.__init__

            def __init__(self: Any, *given: Any, **named: Any) -> None:
                begin(self, *given, **named)
                if self._shared_state.get("distributed_type") == module.DistributedType.MULTI_CPU:
                    self.distributed_type = module.DistributedType.MULTI_GPU

            module.PartialState.__init__ = __init__

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "RANK" in os.environ:
    sys.meta_path.insert(0, _Finder())
