"""What all fuzz targets begin with: inputs that were kept, and files of the repo."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from fuzzing import CORPUS, ROOT

Run = Callable[[bytes], None]


def kept(name: str) -> list[bytes]:
    """The inputs that are kept of a target; some are packed."""
    files = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    return [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files]


def files(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file()]
