"""Log-probabilities of the reference: computed when a batch first needs them, kept, and read the next time.

They depend on the reference alone, not on the training: another run, another variant or a resumed one reads what an
earlier one computed. TRL's own function computes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hubkit.core.files import MANIFEST, Manifest, digest_of, read_json
from hubkit.core.libraries import installed
from hubkit.models import load

if TYPE_CHECKING:
    from torch import Tensor

    from hubkit.training.adapter import TrainedAdapter
    from hubkit.training.contract import Inputs, Settings
    from hubkit.training.pairs.store import Store

_FORMAT = 2
_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
_SAMPLED = 64
"""Numbers of each weight that tell whether it is the same model."""
DROPS = ("attention_dropout", "attn_pdrop")
"""Keys of a config with the dropout of a model's attention, which TRL does not switch off."""
_FLUSHED = 4096
"""New pairs after which they are written, between two checkpoints."""


def key_of(inputs: Inputs, settings: Settings, args: Any, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What shapes the reference's numbers beside the tokens of a pair: the model, how it is computed, the libraries.

    ``model`` is the one to train, as it is before the first step.
    """
    base, previous = inputs.base, inputs.previous
    return {
        "format": _FORMAT,
        "base": {"repo": base.repo, "commit": base.commit},
        "reference": _content(previous) if previous is not None else None,
        "sample": sample_of(model),
        "all_weights": settings.trains_all_weights,
        "quantization": settings.quantization,
        "dtype": str(load.training_dtype()),
        "autocast": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
        "device": load.device(),
        "ld_alpha": args.ld_alpha,
        "tokenizer": [type(tokenizer).__name__, len(tokenizer), tokenizer.pad_token_id],
        "libraries": libraries(),
    }


def libraries() -> dict[str, str | None]:
    """The versions of the libraries that compute the numbers."""
    return {name: installed(name) for name in _LIBRARIES}


def is_fixed(trainer: Any) -> bool:
    """Whether the reference says the same of a pair each time it is asked, in this training and in the next one.

    Without a model of its own it is the one that is trained, in training mode, with its adapter off.
    """
    args = trainer.args
    if args.sync_ref_model or trainer.precompute_ref_logps:
        return False
    if trainer.ref_model is not None:
        model = trainer.accelerator.unwrap_model(trainer.ref_model)
        return not (model.training and has_dropout(model))
    adapters = getattr(trainer.model, "peft_config", {}).values()
    biases = any(getattr(adapter, "bias", "none") != "none" for adapter in adapters)  # trained, and not switched off
    return not (args.neftune_noise_alpha or biases or has_dropout(trainer.model))


def has_dropout(model: Any) -> bool:
    """Whether ``model`` drops something at random in training mode."""
    import torch

    if any(isinstance(item, torch.nn.Dropout) and item.p > 0 for item in model.modules()):
        return True
    return any(getattr(model.config.get_text_config(), name, 0.0) for name in DROPS)


def _content(previous: TrainedAdapter) -> str:
    """The digest of the weights of ``previous``, from its manifest where there is one."""
    sealed = previous.folder / MANIFEST
    manifest = Manifest.from_json(read_json(sealed)) if sealed.is_file() else Manifest.of(previous.folder)
    name = f"{previous.weights.name}/"
    return digest_of({path: item.sha256 for path, item in manifest.files.items() if path.startswith(name)})


def sample_of(model: Any) -> str:
    """A digest of some numbers of each of the weights of ``model``: a base in a folder may change without a commit."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta and weight.numel():
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _SAMPLED)].contiguous().cpu()
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Reference:
    """The reference's numbers for the batches of a trainer, from ``store`` or computed and kept there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.computed = self.cached = 0
        self._unwritten = 0

    def of(self, trainer: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """TRL's ``ref_chosen_logps`` and ``ref_rejected_logps`` of the padded batch ``inputs``."""
        import torch

        digests = digests_of(inputs)
        missing = [place for place, digest in enumerate(digests) if self.store.find(digest) is None]
        if trainer.model.training:
            self.computed += len(missing)
            self.cached += len(digests) - len(missing)
        together = _some_compute(trainer, missing)  # each process asks, also one that is going to compute
        if asked := missing or ([0] if together else []):
            chosen, rejected = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, part(inputs, asked))
            if missing:  # what is known stays as it is: other padding gives other last bits
                for place, *numbers in zip(asked, chosen.tolist(), rejected.tolist(), strict=True):
                    self.store.add(digests[place], (numbers[0], numbers[1]))
            self._unwritten += len(missing)
        if self._unwritten >= _FLUSHED:
            self.flush()
        found = torch.tensor([self.store.find(digest) for digest in digests], dtype=torch.float32)
        found = found.to(inputs["input_ids"].device)
        return {"ref_chosen_logps": found[:, 0], "ref_rejected_logps": found[:, 1]}

    def flush(self) -> None:
        """Write what is new."""
        self._unwritten = 0
        self.store.flush()


def _some_compute(trainer: Any, missing: Sequence[int]) -> bool:
    """Whether one of the processes computes now. A model in shards needs all of them for each forward pass."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return False
    import torch

    counts = trainer.accelerator.gather(torch.tensor([len(missing)], device=trainer.accelerator.device))
    return bool(counts.sum().item())


def digests_of(inputs: Mapping[str, Any]) -> list[bytes]:
    """A digest of each pair of the padded batch ``inputs``: its tokens, and which of them are an answer's."""
    ids, lengths = inputs["input_ids"].cpu().numpy(), inputs["attention_mask"].sum(1).tolist()
    answers = inputs["completion_mask"].sum(1).tolist()
    pairs = len(ids) // 2
    found = []
    for pair in range(pairs):
        digest = hashlib.blake2b(digest_size=16)
        for row in (pair, pairs + pair):
            digest.update(f"{lengths[row]} {answers[row]} ".encode())
            digest.update(ids[row, : lengths[row]].astype("<i8").tobytes())
        found.append(digest.digest())
    return found


def part(inputs: Mapping[str, Any], pairs: Sequence[int]) -> dict[str, Any]:
    """The padded batch of these ``pairs`` of ``inputs`` alone; the batch itself when they are all of it."""
    total = len(inputs["input_ids"]) // 2
    names = ("input_ids", "attention_mask", "completion_mask")
    if len(pairs) == total:
        return {name: inputs[name] for name in names}
    rows = [*pairs, *(total + pair for pair in pairs)]
    width = int(inputs["attention_mask"][rows].sum(1).max())
    return {name: inputs[name][rows, :width].contiguous() for name in names}
