"""Files made as large as a reader allows, and the child process that reads them and reports what that took.

python large_files.py KIND FOLDER
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

MANY = 250_000
"""Tensors of a header; the largest published model has 140,000, in 61 files."""
FILES = 80_000
"""Files of a manifest of 16 MB, which is the most that is read."""


def _config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"a": [' + b"[],[[]]," * (8 * 2**20) + b"0]}")


def _settings(folder: Path) -> None:
    """As many values as the limits allow, in each file that may be large."""
    for name, signs in (("config.json", 500_000), ("generation_config.json", 500_000), ("tokenizer.json", 5_000_000)):
        (folder / name).write_bytes(b'{"a": [' + b"[]," * (signs // 2 - 10) + b"0]}")


def _tokenizer(folder: Path) -> None:
    """Of the size of the largest that are published."""
    vocabulary = {f"token number {n}": n for n in range(262_000)}
    merges = [[f"to{n}", "ken"] for n in range(514_000)]
    content = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def _header(folder: Path) -> None:
    member = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{n}": member for n in range(MANY)}, separators=(",", ":")).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')


def _manifest(folder: Path) -> None:
    item = {"size": 0, "sha256": "0" * 64, "git": "0" * 40}
    files = [{"path": f"data/{n:06}.bin", **item} for n in range(FILES)]
    (folder / ".hubkit").mkdir()
    (folder / ".hubkit" / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))


KINDS: dict[str, Callable[[Path], None]] = {
    "a config.json of 64 MB": _config,
    "settings of as many values as are read": _settings,
    "a tokenizer of 262,000 tokens": _tokenizer,
    "a header of 250,000 tensors": _header,
    "a manifest of 80,000 files": _manifest,
}


def _peak() -> int:
    """The most memory that this process had, in bytes. rusage also counts what its parent had when it was forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


def main() -> None:
    """See the module."""
    from hubkit.checks.model import check
    from hubkit.checks.source import FolderSource
    from hubkit.core.errors import ConflictError
    from hubkit.publishing.verifying import verify

    kind, folder = sys.argv[1], Path(sys.argv[2])
    before, start = _peak(), time.process_time()
    if kind.startswith("a manifest"):
        with contextlib.suppress(ConflictError):
            verify(FolderSource(folder))
        rules = []
    else:
        rules = sorted({item.rule for item in check(FolderSource(folder)).findings})
    seconds = time.process_time() - start
    memory = _peak() - before
    print(json.dumps({"seconds": seconds, "bytes": memory, "rules": rules}))


if __name__ == "__main__":
    main()
