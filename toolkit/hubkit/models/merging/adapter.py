"""An adapter as PEFT saves it: its settings, its tensors, and what it changes of a base, by the base's tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import SETTINGS, load_json
from hubkit.core.errors import RefusedError
from hubkit.models.merging.by_name import changes_by_name
from hubkit.models.merging.changes import Change, as_rows
from hubkit.models.merging.fitting import fitted
from hubkit.models.merging.support import Way, next_action, unmergeable
from hubkit.models.tensors import Header, Tensor, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """``settings`` as in adapter_config.json; the rest is known once the adapter was fitted to a base (:func:`fit`).

    ``changes`` by the base's tensor name; a name that the base lacks is a new tensor, made from ``origin``.
    ``config``: what the merged model has otherwise in its config.json. ``way`` is ``peft`` when PEFT has merged it
    already, for ``reason``: then ``file`` has the tensors that it changed.
    """

    folder: Path
    settings: Mapping[str, Any]
    header: Header
    changes: Mapping[str, Change] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    file: str = WEIGHTS
    way: Way = "streamed"
    reason: str = ""

    def load(self, name: str, start: int = 0, stop: int | None = None, *, device: str = "cpu") -> Any:
        """The adapter's tensor ``name`` in float32; of a part of its rows (see ``changes``) a matrix of these."""
        import torch

        tensor = self.header.tensors[name]
        rows, width = as_rows(tensor.shape)
        stop = rows if stop is None else min(stop, rows)
        if (start, stop) == (0, rows):
            path = self.folder / self.file
            written = path.stat()
            whole = _read_whole(path, tensor, (written.st_ino, written.st_mtime_ns))
            return whole.to(device, torch.float32, copy=True)
        row = tensor.size // rows if rows else 0
        with (self.folder / self.file).open("rb") as file:
            file.seek(tensor.start + start * row)
            body = bytearray(file.read((stop - start) * row))
        return _as_torch(body, tensor.dtype).reshape(stop - start, width).to(device).float()


@lru_cache(4)
def _read_whole(path: Path, tensor: Tensor, written: tuple[int, int]) -> Any:
    """A tensor as it is in the file that was ``written``. The experts of a layer, a tensor of the base each, share A
    and B."""
    with path.open("rb") as file:
        file.seek(tensor.start)
        return _as_torch(bytearray(file.read(tensor.size)), tensor.dtype).reshape(tensor.shape)


def _as_torch(body: bytearray, dtype: str) -> Any:
    import torch

    return torch.frombuffer(body, dtype=torch_dtype(dtype)) if body else torch.empty(0, dtype=torch_dtype(dtype))


def torch_dtype(name: str) -> Any:
    """torch's dtype for safetensors' name of a float dtype; RefusedError for any other."""
    import torch

    known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if name not in known:
        raise RefusedError(
            f"Weights in {name} cannot be merged.", hint="Use the model in float32, float16 or bfloat16."
        )
    return known[name]


def read_adapter(folder: Path) -> Adapter:
    """The adapter in ``folder``.

    Raises RefusedError when it is not a LoRA adapter in safetensors, or uses a feature that changes the meaning
    of its tensors in a way that is not understood here.
    """
    if not (folder / CONFIG).is_file():
        raise RefusedError(
            f"There is no {CONFIG} in {folder.name or folder}.", hint="Name a folder or a repo with a PEFT adapter."
        )
    try:
        settings = load_json((folder / CONFIG).read_bytes(), SETTINGS)
    except (OSError, ValueError) as error:
        raise RefusedError(f"There is no readable {CONFIG} in {folder.name}: {error}.") from error
    if not isinstance(settings, dict):
        raise RefusedError(f"{CONFIG} in {folder.name} is not a JSON object.")
    if not (folder / WEIGHTS).is_file():
        raise RefusedError(f"There is no {WEIGHTS} in {folder.name}.", hint="Save the adapter as safetensors.")
    if problem := unmergeable(settings):
        raise RefusedError(f"This adapter cannot be merged here: {problem}.", hint=next_action(settings))
    header = read_header(folder / WEIGHTS)
    if not header.tensors:
        raise RefusedError("The adapter contains no tensors.", hint="It was saved without training.")
    return Adapter(folder, settings, header)


def fit(adapter: Adapter, base: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """``adapter`` with its changes by the names of ``base``, the base's tensors, whose config.json is ``config``.

    Raises RefusedError when it does not fit or PEFT's own merge would be wrong; NotLocalError when a change is not made
    of one tensor of the base, so that PEFT must merge it.
    """
    shapes = {name: tensor.shape for name, tensor in base.items()}
    changes = changes_by_name(adapter.settings, adapter.header, shapes, str(config.get("model_type")))
    changed: Mapping[str, Any] = {}
    if changes is None:
        changes, changed = fitted(adapter.settings, adapter.header, shapes, config)
    return replace(adapter, changes=changes, config=changed)
