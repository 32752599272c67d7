"""Do the tensors of a model have the names and shapes that its config.json promises? No weight is read for it.

transformers' own loader answers, for a text model that config.json names, so that tied, fused and renamed weights are
understood as they are when somebody loads the model: it is given the headers of the files, their bytes left out (sparse
files), and makes the model on torch's meta device, where tensors have no numbers. It runs in a child process with
limits, without a token and without the network, and never runs a model's own code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.numbers import counted
from hubkit.models.tensors import INDEX

_SECONDS = 60
"""Of computing; transformers takes five to be imported, and less than that for a model of any size."""
_MEMORY = 16 * 2**30
"""Bytes of address space: torch maps several times what it uses."""
_BUFFERS = ("rotary_emb.inv_freq", "position_ids", "attn.bias", "attn.masked_bias", "attention.bias", "masked_bias")
"""Ends of the names of tensors that older checkpoints hold and that every model computes anew: no weight is lost."""
_PASSED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS")

_CHILD = """
import json, resource, sys
seconds, memory = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
import transformers
settings = dict(trust_remote_code=False, local_files_only=True)
config = transformers.AutoConfig.from_pretrained(sys.argv[1], **settings)
name = next((item for item in config.architectures or () if isinstance(item, str)), "")
kind = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
if getattr(kind, "__name__", None) != name:
    print(json.dumps({"unknown": name}))
    sys.exit()
model, said = kind.from_pretrained(
    sys.argv[1], config=config, device_map="meta", dtype="auto", use_safetensors=True,
    ignore_mismatched_sizes=True, output_loading_info=True, **settings
)
buffers = {path for path, _ in model.named_buffers()}
ends = tuple(sys.argv[4].split(","))
print(json.dumps({
    "missing": sorted(said["missing_keys"]),
    "unexpected": sorted(
        path for path in said["unexpected_keys"] if path not in buffers and not path.endswith(ends)
    ),
    "other": sorted([name, list(held), list(wanted)] for name, held, wanted in said["mismatched_keys"]),
    "parameters": model.num_parameters(),
}))
"""


@dataclass(frozen=True)
class Fit:
    """How tensors fit an architecture: missing names, unexpected names, (name, shape in the file, expected shape)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    parameters: int

    @property
    def sentence(self) -> str | None:
        """What does not fit, in one clause; None when all does."""
        clauses = []
        if self.missing:
            clauses.append(f"{counted(len(self.missing), 'missing tensor')}, e.g. {self.missing[0]!r}")
        if self.unexpected:
            clauses.append(f"{counted(len(self.unexpected), 'unexpected tensor')}, e.g. {self.unexpected[0]!r}")
        if self.other:
            name, held, wanted = self.other[0]
            wrong = counted(len(self.other), "tensor")
            clauses.append(f"{wrong} of the wrong shape, e.g. {name!r}: {list(held)} instead of {list(wanted)}")
        return "; ".join(clauses) or None


def is_available() -> bool:
    """Whether transformers and torch are there; the light install has neither."""
    return find_spec("transformers") is not None and find_spec("torch") is not None


def fit_of(config: bytes, headers: Mapping[str, tuple[bytes, int]], index: bytes | None) -> Fit | str:
    """How the files fit ``config`` (config.json as it is), or, as a clause, why that is unknown.

    ``headers`` are by file name: the beginning of each safetensors file, up to the end of its header, and the size
    of the file. ``index`` is model.safetensors.index.json, when there is one.
    """
    try:
        if not isinstance(load_json(config, SETTINGS).get("architectures"), list):
            return "config.json names no architecture"
    except (JsonError, AttributeError):
        return "config.json cannot be read"
    with tempfile.TemporaryDirectory(prefix="hubkit-") as name:
        folder = Path(name)
        (folder / "config.json").write_bytes(config)
        if index is not None:
            (folder / INDEX).write_bytes(index)
        for file, (start, size) in headers.items():
            with (folder / file).open("wb") as written:
                written.write(start)
                written.truncate(size)
        return _ask(folder)


def _ask(folder: Path) -> Fit | str:
    environment = {key: os.environ[key] for key in _PASSED if key in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "HOME": str(folder), "HF_HOME": str(folder / "home"), "TMPDIR": str(folder)}
    command = [sys.executable, "-I", "-X", "utf8", "-c", _CHILD, str(folder), str(_SECONDS), str(_MEMORY)]
    command.append(",".join(_BUFFERS))
    try:
        child = subprocess.run(command, capture_output=True, timeout=2 * _SECONDS, env=environment, check=False)
        said = json.loads(child.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return "transformers cannot build this architecture"
    if "unknown" in said:
        return f"{said['unknown'] or 'the architecture'} is none of the text models that transformers has"
    other = tuple((name, tuple(held), tuple(wanted)) for name, held, wanted in said["other"])
    return Fit(tuple(said["missing"]), tuple(said["unexpected"]), other, said["parameters"])
