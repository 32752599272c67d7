"""Importing bitsandbytes loads no compiler; what bitsandbytes compiles is compiled once, when it is called."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hubkit.core import late_compiling

IMPORTS = """
import sys, torch
from hubkit.core.late_compiling import COMPILING, compile_late
now = torch.compile
compile_late()
compile_late()
import bitsandbytes
assert COMPILING in sys.modules and torch.compile is now
assert "torch._inductor.compile_fx" not in sys.modules
function = sys.modules[COMPILING]._dequantize_4bit_compute
assert function.__module__ == COMPILING
"""


def test_importing_bitsandbytes_loads_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def test_what_is_compiled_late_is_compiled_once_with_its_options() -> None:
    asked: list[Any] = []

    def compile_now(function: Any, **options: Any) -> Any:
        asked.append(options)
        return lambda number: function(number) + 1

    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    late = late_compiling._late(compile_now, double, dynamic=False)
    assert asked == [] and late.__doc__ == "Twice the number."
    assert [late(3), late(4)] == [7, 9] and asked == [{"dynamic": False}]
