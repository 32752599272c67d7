"""One file of pickled weights becomes safetensors: the script of a child process with limits (`hubkit convert`).

torch.load with ``weights_only`` builds tensors and plain values and calls nothing else; what asks for more is refused.
It imports nothing of hubkit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def answer(job: Mapping[str, str]) -> dict[str, Any]:
    """Write the tensors of ``job['source']`` to ``job['target']``.

    ``tensors``: their names; ``error``: why it was not converted.
    """
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    try:
        found = torch.load(job["source"], map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises what it likes, and advises to switch the check off
        named = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        return {"error": f"it holds more than tensors ({named[1] if named else type(error).__name__})"}
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        return {"error": f"it holds a {type(found).__name__}, not tensors by name"}
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others or not found or not all(isinstance(name, str) for name in found):
        return {"error": f"{others[0]!r} in it is no tensor" if others else "it holds no tensors by name"}
    seen: set[int] = set()
    tensors = {}
    for name, value in found.items():
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.clone().contiguous() if place in seen else value.contiguous()
        seen.add(place)
    save_file(tensors, job["target"], {"format": "pt"})
    return {"tensors": sorted(tensors)}
