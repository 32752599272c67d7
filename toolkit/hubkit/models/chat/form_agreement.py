"""How far two forms of a model agree on the next token, and how far rounding alone moves them.

The merged weights and the adapter on its base are one model, rounded at different places. Whether the merge is right is
proved from the tensors (:mod:`hubkit.models.merging.proof`); what is measured here is what a reader notices. It is
reported beside its noise floor, from the same conversations: the merged weights in the published dtype against
themselves in the next wider one.

Nothing is generated: each model reads the same conversations once and says the most likely next token after every
token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.core.files import read_json, write_json
from hubkit.core.numbers import counted, share, size
from hubkit.models.chat.stop_rate import Answer

CONVERSATIONS = 24
"""How many conversations the forms read, of at most the last ``TOKENS`` tokens each: on a processor a 16-bit model of
135 M parameters reads some 50 to 200 tokens a second."""
TOKENS = 96
LOGITS = 16
"""Positions of a conversation whose logits are compared whole, evenly over it."""
WIDER = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}
LEAST, TIMES = 0.10, 10
"""Forms that differ on more next tokens than ``TIMES`` the noise floor, and on more than ``LEAST``, are not one model.

Measured with right merges of SmolLM2-135M: 0.5 to 2.8 % of the next tokens differ, where rounding alone changes 1.1 %:
up to 2.5 times the floor. Small models and small floors are allowed more than their floor says.
"""


@dataclass(frozen=True)
class Agreement:
    """Two models on the same conversations: the share of equal most likely next tokens at ``positions`` places.

    ``max_difference`` is the greatest difference of a logit at those places where they were compared.
    """

    positions: int
    same_next_token: float
    max_difference: float


@dataclass(frozen=True)
class FormAgreement:
    """The published forms against each other, and the noise floor of that measurement.

    ``forms``: the merged weights against the adapter on its base, in ``dtype``. ``floor``: the merged weights in
    ``dtype`` against themselves in ``wider``; None where that was not measured, for the reason in ``no_floor``.
    """

    dtype: str
    wider: str
    conversations: int
    forms: Agreement
    floor: Agreement | None = None
    no_floor: str | None = None

    @property
    def allowed(self) -> float:
        """The share of next tokens that may differ."""
        return max(LEAST, TIMES * (1 - self.floor.same_next_token) if self.floor else 0.0)

    def refuse_if_apart(self, what: str) -> None:
        """ConflictError when the forms differ by far more than rounding explains. ``what`` names the variant."""
        if not 1 - self.forms.same_next_token <= self.allowed:
            floor = f"; rounding alone changes {share(1 - self.floor.same_next_token)}" if self.floor else ""
            raise ConflictError(
                f"{what}: the merged weights and the adapter on its base are not the same model: they choose another "
                f"next token at {share(1 - self.forms.same_next_token)} of {counted(self.forms.positions, 'position')} "
                f"(at most {share(self.allowed)}{floor}).",
                hint="Check that the base loads with the config.json of the merge, then run `hubkit release --fresh`.",
            )


@dataclass(frozen=True)
class Predictions:
    """What a model expects after each token of the conversations.

    ``best``: of each conversation the most likely next tokens, shape (tokens,); ``logits``: at some of its positions
    the logits in float32, shape (positions, vocabulary).
    """

    dtype: str
    best: list[Any]
    logits: list[Any]

    def against(self, other: Predictions) -> Agreement:
        """How far both agree."""
        positions = sum(len(item) for item in self.best)
        equal = sum(int((a == b).sum()) for a, b in zip(self.best, other.best, strict=True))
        pairs = zip(self.logits, other.logits, strict=True)
        most = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
        return Agreement(positions, equal / positions if positions else 0.0, most)


def conversations(tokenizer: Any, prompts: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> list[list[int]]:
    """Token ids of the first prompts, each with its answer after it; of a long one the end."""
    found = []
    for row, answer in list(zip(prompts, answers, strict=True))[:CONVERSATIONS]:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        found.append([*ids, *answer.ids][-TOKENS:])
    return found


def predict(model: Any, texts: Sequence[Sequence[int]]) -> Predictions:
    """Read ``texts``, one at a time, with ``model`` (of transformers or PEFT)."""
    import torch

    model.eval()
    best, logits = [], []
    with torch.inference_mode():
        for ids in texts:
            read = torch.tensor([list(ids)], device=model.device)
            found = model(input_ids=read, attention_mask=torch.ones_like(read)).logits[0]
            best.append(found.argmax(-1).cpu())
            logits.append(found[:: max(1, len(ids) // LOGITS)].float().cpu())
    return Predictions(str(next(iter(model.parameters())).dtype).removeprefix("torch."), best, logits)


def predict_wider(model: Any, texts: Sequence[Sequence[int]]) -> Predictions | str:
    """What ``model`` expects in the next wider dtype, to which it is changed; why not, where memory is too small."""
    import torch

    parameters = list(model.parameters())
    wider = WIDER.get(str(parameters[0].dtype).removeprefix("torch."))
    if wider is None:
        return f"there is no wider dtype than {parameters[0].dtype}"
    needed = sum(item.numel() for item in parameters) * (8 if wider == "float64" else 4)
    if needed > (free := _free_memory(model.device)):
        return f"{wider} needs {size(needed)} of memory, {size(free)} are free"
    if wider == "float64" and model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # the fused products of experts know no float64
    return predict(model.to(getattr(torch, wider)), texts)


def _free_memory(device: Any) -> int:
    """Bytes that a model on ``device`` could still take."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


# --- what is kept for whoever loads the forms again

KEPT = "next_tokens.json"


def keep(folder: Path, texts: Sequence[Sequence[int]], forms: Mapping[str, Predictions]) -> None:
    """Write the conversations, and what each form expects, to ``folder``."""
    found = {name: [item.tolist() for item in form.best] for name, form in forms.items()}
    write_json(folder / KEPT, {"conversations": [list(item) for item in texts], "best": found})


@dataclass(frozen=True)
class KeptPredictions:
    """What each form expected when it was measured: ``best`` by form, for each of ``texts``."""

    texts: list[list[int]]
    best: Mapping[str, list[list[int]]]

    @classmethod
    def load(cls, folder: Path, most: int) -> KeptPredictions | None:
        """The first ``most`` conversations that were kept in ``folder``; None when there are none."""
        if not (folder / KEPT).is_file():
            return None
        found = read_json(folder / KEPT)
        return cls(found["conversations"][:most], {name: best[:most] for name, best in found["best"].items()})

    def reproduced(self, form: str, model: Any) -> Agreement:
        """How far ``model``, loaded anew, expects what ``form`` expected then."""
        import torch

        now = predict(model, self.texts)
        then = Predictions(now.dtype, [torch.tensor(item) for item in self.best[form]], now.logits)
        return now.against(then)
