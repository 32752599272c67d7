"""Load the staged commit back as a stranger would, and hold the gates against what came back.

From an empty cache, by repo id and commit: every byte is hashed, the merged weights and the adapter on its base are
loaded, the stop rate of both is measured again on the same prompts, and their logits are compared with each other. The
tokenizer that came back makes of conversations the token ids that the trainer saw.

Makes: ``loadback.json`` {commit, files, bytes, stopping: {form: F}, compared: {dtype, conversations, positions,
top1_agreement, max_difference}}.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Manifest, write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import share, short
from hubkit.hub.client import Hub, connect
from hubkit.hub.errors import translated
from hubkit.models import chat
from hubkit.models.chat import eos, stop_rate
from hubkit.publishing.read_back import verify_bytes
from hubkit.recipe.stage import Artifact, Context

VERSION = 2
SHAPED_BY = ("torch", "transformers", "peft")

CONVERSATIONS = 64
"""How many conversations the two forms are compared on; of the first ``FULL`` all the logits are."""
FULL = 8
MOST_TOKENS = 256
FLOAT32_PARAMETERS = 1_000_000_000
"""Up to this many parameters both forms are compared in float32, which leaves only the rounding of the merge."""
LEAST_AGREEMENT = 0.995
"""Of the most likely next tokens, for weights merged in 16 bits. Rounding alone leaves more: the releases of the
example recipe show 99.89 to 100 %."""
MOST_DIFFERENCE = 1e-4
"""Of any logit, for weights merged in float32."""


def check(ctx: Context) -> Iterable[Finding]:
    """Nothing that could be known before the upload."""
    return ()


def run(ctx: Context) -> Artifact:
    """Measure what strangers get.

    ConflictError when bytes or logits are wrong, RefusedError when a gate does not hold.
    """
    hub, published = connect(ctx.target), ctx.input("publish").json("published.json")
    repo, commit = str(published["repo"]), str(published["commit"])
    cache = ctx.scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        ctx.report("downloading every file", 0.05)
        manifest = Manifest.from_json(ctx.input("publish").json("bundle.json"))
        verify_bytes(hub, repo, commit, manifest, cache)
        forms, compared = _measure(ctx, hub, repo, commit, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    said = {
        "commit": commit,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "stopping": {name: rate.to_json() for name, rate in forms.items()},
        "compared": compared.to_json(),
        "top1_agreement": compared.agreement,
    }
    write_json(ctx.out / "loadback.json", said)
    _hold_the_gate(ctx, forms)
    compared.refuse_if_broken(str(ctx.input("merge").json("merge.json")["dtype"]))
    shown = ", ".join(f"{name} {share(rate.rate)}" for name, rate in forms.items())
    return ctx.artifact(
        figure=f"stops: {shown}; top-1 agreement {share(compared.agreement)}", top1_agreement=compared.agreement
    )


def _measure(
    ctx: Context, hub: Hub, repo: str, commit: str, cache: Path
) -> tuple[dict[str, stop_rate.StopRate], Comparison]:
    """Both forms, one after the other in memory: their stop rates, and how well their logits agree."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, merge = ctx.input("base").json("base.json"), ctx.input("merge").json("merge.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limits = ctx.settings["gates"]["stop_rate"]
    prompts = _prompts(ctx, int(limits["prompts"]))

    def load(name: str, at: str, **where: Any) -> Any:
        with translated(hub.endpoint, name, at):
            dtype = getattr(torch, merge["dtype"])
            return AutoModelForCausalLM.from_pretrained(name, revision=at, dtype=dtype, **where).to(device)

    def rate(model: Any, form: str, start: float) -> stop_rate.StopRate:
        return stop_rate.measure(
            model,
            tokenizer,
            prompts,
            end,
            max_new_tokens=int(limits["max_new_tokens"]),
            batch_size=int(limits["batch_size"]),
            report=lambda words, share: ctx.report(f"{form}: {words}", start + 0.4 * (share or 0.0)),
        )

    with translated(hub.endpoint, repo, commit):
        tokenizer = AutoTokenizer.from_pretrained(repo, revision=commit, cache_dir=cache)
    end = eos.find(tokenizer)
    if end.id != base["end_of_turn"]["id"]:
        raise ConflictError(
            f"The tokenizer that came back ends a turn by {end.token!r}, not by {base['end_of_turn']['token']!r}.",
            hint="The merge wrote other tokenizer files than the base has; run with --fresh.",
        )
    train = ctx.input("train")
    kept = train.json(chat.SEEN_FILE) if chat.SEEN_FILE in train.manifest.files else None
    if kept and (different := chat.differences(tokenizer, kept)):
        raise ConflictError(
            f"The tokenizer that came back makes other tokens than were trained on: {different[0]}.",
            hint="The merge wrote other tokenizer files than the base has; run with --fresh.",
        )
    model = load(repo, commit, cache_dir=cache)
    wide = sum(item.numel() for item in model.parameters()) <= FLOAT32_PARAMETERS
    merged = rate(model, "merged", 0.1)
    texts = _conversations(tokenizer, prompts, merged)
    seen = _outputs(model.float() if wide else model, texts)
    del model
    gc.collect()
    bare = load(base["repo"], base["commit"])
    with translated(hub.endpoint, repo, commit):
        model = PeftModel.from_pretrained(bare, repo, subfolder="adapter", revision=commit, cache_dir=cache)
    adapter = rate(model, "adapter", 0.5)
    compared = Comparison.of(seen, _outputs(model.float() if wide else model, texts))
    return {"merged": merged, "adapter": adapter}, compared


def _prompts(ctx: Context, most: int) -> list[dict[str, Any]]:
    lines = (ctx.input("data").path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line][:most]


def _conversations(tokenizer: Any, prompts: Sequence[Mapping[str, Any]], merged: stop_rate.StopRate) -> list[list[int]]:
    """Token ids of the first prompts, each with the merged model's own answer after it."""
    found = []
    for row, answer in list(zip(prompts, merged.answers, strict=True))[:CONVERSATIONS]:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        found.append([*ids, *answer.ids][-MOST_TOKENS:])
    return found


@dataclass(frozen=True)
class Outputs:
    """What a model says after each token of the conversations.

    ``best``: of each conversation the most likely next tokens, shape (tokens,); ``full``: of the first ``FULL`` the
    logits in float32, shape (tokens, vocabulary).
    """

    best: list[Any]
    full: list[Any]
    dtype: str


def _outputs(model: Any, texts: Sequence[Sequence[int]]) -> Outputs:
    import torch

    model.eval()
    best, full = [], []
    with torch.inference_mode():
        for index, ids in enumerate(texts):
            logits = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0]
            best.append(logits.argmax(-1).cpu())
            if index < FULL:
                full.append(logits.float().cpu())
    return Outputs(best, full, str(next(iter(model.parameters())).dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Comparison:
    """How far two forms of a model agree: share of equal most likely tokens, greatest difference of a logit."""

    dtype: str
    conversations: int
    positions: int
    agreement: float
    max_difference: float

    @classmethod
    def of(cls, one: Outputs, other: Outputs) -> Comparison:
        """Compare the outputs of two models on the same conversations."""
        positions = sum(len(item) for item in one.best)
        equal = sum(int((a == b).sum()) for a, b in zip(one.best, other.best, strict=True))
        most = max((float((a - b).abs().max()) for a, b in zip(one.full, other.full, strict=True)), default=0.0)
        return cls(one.dtype, len(one.best), positions, equal / positions if positions else 0.0, most)

    def to_json(self) -> dict[str, Any]:
        """The figures, as they stand in ``loadback.json``."""
        return {
            "dtype": self.dtype,
            "conversations": self.conversations,
            "positions": self.positions,
            "top1_agreement": self.agreement,
            "max_difference": self.max_difference,
        }

    def refuse_if_broken(self, merged_dtype: str) -> None:
        """ConflictError when the merged weights are not the adapter on its base, allowing for rounding."""
        if merged_dtype == "float32":
            wrong = not self.max_difference <= MOST_DIFFERENCE
            said = f"their logits differ by {short(self.max_difference)} (at most {short(MOST_DIFFERENCE)})"
        else:
            wrong = not self.agreement >= LEAST_AGREEMENT
            said = f"they agree on {share(self.agreement)} of the next tokens (at least {share(LEAST_AGREEMENT)})"
        if wrong:
            raise ConflictError(
                f"The merged weights and the adapter on its base are not the same model: {said}.",
                hint="Nothing was promoted. The merge went wrong, or the adapter belongs to another base.",
            )


def _hold_the_gate(ctx: Context, forms: Mapping[str, stop_rate.StopRate]) -> None:
    gate = ctx.input("gate").json("gates.json")["variants"][ctx.variant_name]
    low = [f"{name} {share(rate.rate)}" for name, rate in forms.items() if rate.rate < gate["threshold"]]
    if gate["enforced"] and low:
        raise RefusedError(
            f"{ctx.variant_name}, loaded back from the Hub, ends too few of its turns: {', '.join(low)} "
            f"(at least {share(gate['threshold'])}).",
            hint="Nothing was promoted. It passed before the upload: see stopping.json and loadback.json.",
        )
