"""Measure how often a model ends its turns: the base, or each form in which a variant is used.

    gates: {stop_rate: {prompts: 256, max_new_tokens: 1024, batch_size: 32}}

A variant has three forms: its merged weights; its adapter on the base in the published dtype; and its adapter on the
base in 4 bits, as it was trained. The first two are published and gated, the third is reported.

Makes: ``stopping.json``.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import share
from hubkit.hub.errors import translated
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.stop_rate import StopRate, measure
from hubkit.recipe.stage import Artifact, Context
from hubkit.training import shared

VERSION = 1
SHAPED_BY = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


def check(ctx: Context) -> Iterable[Finding]:
    """Nothing: the prompts are held out by the data step, the settings are checked with the recipe."""
    return ()


def run(ctx: Context) -> Artifact:
    """Make ``stopping.json``: one model in memory at a time."""
    base = ctx.input("base").json("base.json")
    end_of_turn = EndOfTurn.from_json(base["end_of_turn"])
    forms, skipped = _forms(ctx, base)
    measured: dict[str, StopRate] = {}
    for place, (name, load) in enumerate(forms.items()):
        ctx.report(f"{name}: loading", place / len(forms))
        measured[name] = _measure(ctx, base, end_of_turn, name, load, place / len(forms), 1 / len(forms))
    first = next(iter(measured.values()))
    write_json(
        ctx.out / "stopping.json",
        {
            "max_new_tokens": ctx.settings["gates"]["stop_rate"]["max_new_tokens"],
            "prompts": first.prompts,
            "end_of_turn": {"token": end_of_turn.token, "id": end_of_turn.id},
            "forms": {name: rate.to_json() for name, rate in measured.items()},
            "skipped": skipped,
        },
    )
    figure = ", ".join(f"{name} {share(rate.rate)}" for name, rate in measured.items())
    return ctx.artifact(figure=figure, rates={name: rate.rate for name, rate in measured.items()})


Load = Callable[[], tuple[Any, Any]]
"""Loads a model and its tokenizer."""


def _forms(ctx: Context, base: dict[str, Any]) -> tuple[dict[str, Load], dict[str, str]]:
    """How to load each form, and why a form is left out."""
    if ctx.variant_name is None:
        return {"base": lambda: (_bare(ctx, base, ctx.settings["base"]["dtype"]), _tokenizer(ctx, base))}, {}
    merged = ctx.input("merge").path / "model"
    adapter = str(ctx.input("train").path / "adapter")
    dtype = ctx.input("merge").json("merge.json")["dtype"]

    def load_merged() -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
        return _placed(model), AutoTokenizer.from_pretrained(merged)

    def load_adapter() -> tuple[Any, Any]:
        from peft import PeftModel

        return PeftModel.from_pretrained(_bare(ctx, base, dtype), adapter), _tokenizer(ctx, base)

    def load_four_bit() -> tuple[Any, Any]:
        from peft import PeftModel

        with translated(ctx.target.endpoint, base["repo"], base["commit"]):
            model = shared.load_base(base["repo"], base["commit"], quantization="nf4")
        return PeftModel.from_pretrained(model, adapter), _tokenizer(ctx, base)

    forms: dict[str, Load] = {"merged": load_merged, "adapter": load_adapter}
    if ctx.settings["training"]["quantization"] == "none":
        return forms, {"four-bit": "the adapter was not trained on a quantized base"}
    try:
        version("bitsandbytes")
    except PackageNotFoundError:
        return forms, {"four-bit": "bitsandbytes is not installed"}
    return {**forms, "four-bit": load_four_bit}, {}


def _measure(
    ctx: Context, base: dict[str, Any], end_of_turn: EndOfTurn, name: str, load: Load, start: float, share: float
) -> StopRate:
    """Load one form, measure it, and give its memory back."""
    import torch

    settings = ctx.settings["gates"]["stop_rate"]
    lines = (ctx.input("data").path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    model, tokenizer = load()
    try:
        return measure(
            model,
            tokenizer,
            [json.loads(line) for line in lines[: settings["prompts"]]],
            end_of_turn,
            max_new_tokens=settings["max_new_tokens"],
            batch_size=settings["batch_size"],
            report=lambda figure, done: ctx.report(f"{name}: {figure}", start + share * (done or 0.0)),
        )
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _bare(ctx: Context, base: dict[str, Any], dtype: str) -> Any:
    """The base, unquantized, in ``dtype``."""
    from transformers import AutoModelForCausalLM

    with translated(ctx.target.endpoint, base["repo"], base["commit"]):
        return _placed(AutoModelForCausalLM.from_pretrained(base["repo"], revision=base["commit"], dtype=dtype))


def _tokenizer(ctx: Context, base: dict[str, Any]) -> Any:
    with translated(ctx.target.endpoint, base["repo"], base["commit"]):
        return shared.load_tokenizer(base, ctx.input("base").path)


def _placed(model: Any) -> Any:
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model
