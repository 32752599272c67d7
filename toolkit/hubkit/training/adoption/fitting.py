"""Does what was trained elsewhere fit the base? Its tensors are compared with the headers of the base's files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.models.merging.adapter import Adapter, fit, read_adapter
from hubkit.models.merging.resolution import NotLocalError
from hubkit.models.tensors import Tensor, header_length, parse_header, read_weights

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
_TIED = ("lm_head.weight", "embed_out.weight")
"""Output embeddings: files leave them out where they are the input embeddings."""


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object ``folder/name``; RefusedError when it is none."""
    try:
        found = load_json((folder / name).read_bytes(), SETTINGS)
    except JsonError as error:
        raise RefusedError(f"{name} in {folder} {error}.", hint="Save it again.") from error
    if not isinstance(found, dict):
        raise RefusedError(f"{name} in {folder} is not a JSON object.", hint="Save it again.")
    return found


@lru_cache(4)
def remote_tensors(target: Target, repo: str, commit: str) -> Mapping[str, Tensor]:
    """The tensors of the model ``repo`` at ``commit`` by name, from the headers of its files."""
    from hubkit.hub.client import connect

    hub = connect(target)
    found: dict[str, Tensor] = {}
    for name, entry in hub.tree(repo, commit).items():
        if name.endswith(".safetensors") and "/" not in name:
            length = header_length(_part(hub, repo, commit, name, 0, min(8, entry.size)), entry.size, name)
            found |= parse_header(_part(hub, repo, commit, name, 8, length), entry.size, name).tensors
    return found


def _part(hub: Hub, repo: str, commit: str, name: str, start: int, length: int) -> bytes:
    return hub.read_range(repo, name, commit, start, length)


def fitted_adapter(folder: Path, base: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """The adapter in ``folder``, which fits the tensors ``base`` of the model of ``config`` (config.json).

    RefusedError when it does not fit, or cannot be merged correctly.
    """
    adapter = read_adapter(folder)
    try:
        return fit(adapter, base, config)
    except NotLocalError:  # PEFT merges it, and compares it with the base then
        return adapter


def refuse_other_model(
    name: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    base: Mapping[str, Tensor],
    base_config: Mapping[str, Any],
) -> None:
    """RefusedError unless ``tensors`` and ``config`` are those of a fine-tune of the base.

    It may have other numbers of tokens, and may leave tied output embeddings out or have them.
    """
    if config.get("quantization_config"):
        raise RefusedError(f"The weights in {name} are quantized.", hint="Adopt the weights in 16 or 32 bits.")
    if config.get("auto_map"):
        raise RefusedError(
            f"The model in {name} needs Python code of its own (auto_map in config.json).",
            hint="Adopt a model whose architecture transformers knows.",
        )
    kinds = config.get("model_type"), base_config.get("model_type")
    if kinds[0] != kinds[1]:
        raise RefusedError(
            f"The model in {name} is a {kinds[0]}, the base a {kinds[1]}.",
            hint="Set base.repo to the model that it was trained from.",
        )
    for tensor in sorted(tensors.keys() ^ base.keys()):
        if not tensor.endswith(_TIED):
            which = "lacks" if tensor in base else "has"
            other = "has" if tensor in base else "lacks"
            raise RefusedError(
                f"The model in {name} {which} the tensor {tensor}, which the base {other}.",
                hint="Set base.repo to the model that it was trained from.",
            )
    for tensor in sorted(tensors.keys() & base.keys()):
        one, other_shape = tensors[tensor].shape, base[tensor].shape
        if one != other_shape and not (tensor.endswith(_EMBEDDINGS) and one[1:] == other_shape[1:]):
            raise RefusedError(
                f"The tensor {tensor} has the shape {one} in {name}, and {other_shape} in the base.",
                hint="Set base.repo to the model that it was trained from.",
            )


def local_tensors(folder: Path) -> Mapping[str, Tensor]:
    """The tensors of the model in ``folder`` by name; RefusedError when its files or their index are not sound."""
    return {name: tensor for header in read_weights(folder).values() for name, tensor in header.tensors.items()}
