"""The parameters of a safetensors file, counted by type from its header alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

_HEADER_LIMIT = 25_000_000
_MOST = 2**60
"""Parameters that one tensor may have: a header can claim a number too large to calculate with."""
_DTYPE = re.compile(r"[A-Za-z0-9_]{1,20}")


@lru_cache(maxsize=256)
def parameters(path: Path) -> dict[str, int]:
    """Parameters by type (``{"BF16": 7241748480}``); empty when the file is not safetensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, path.stat().st_size - 8):
                return {}
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return {}
    counts: Counter[str] = Counter()
    for name, tensor in header.items() if isinstance(header, dict) else ():
        if name != "__metadata__" and (count := _count(tensor)) is not None:
            counts[str(tensor["dtype"])] += count
    return dict(counts)


def _count(tensor: Any) -> int | None:
    shape = tensor.get("shape") if isinstance(tensor, dict) else None
    if not isinstance(shape, list) or not isinstance(tensor.get("dtype"), str) or len(shape) > 32:
        return None
    if not _DTYPE.fullmatch(tensor["dtype"]):
        return None
    valid = all(isinstance(size, int) and 0 <= size < _MOST for size in shape)
    count = math.prod(shape) if valid else None
    return count if count is None or count < _MOST else None
