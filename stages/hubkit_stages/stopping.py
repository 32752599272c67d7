"""Measure how often a model ends its answers: the base, or each form in which a variant is used.

    gates: {stop_rate: {prompts: 256, max_new_tokens: 1024, batch_size: auto, backend: auto}}

A variant has three forms: its merged weights; its adapter on the base in the published dtype; and its adapter on the
4-bit base (NF4), as it was trained. The first two are published and gated, the third is reported. Weights that were
trained without an adapter are a form by themselves. How far these two
agree on next tokens, and how far rounding alone moves them, is measured on the same answers
(:mod:`hubkit.models.chat.form_agreement`).

Writes ``stopping.json``, and ``next_tokens.json``: what each published form expects, for the load-back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import share
from hubkit.models.base import PinnedBase
from hubkit.models.chat import form_agreement
from hubkit.models.chat.form_agreement import FormAgreement, Predictions
from hubkit.models.chat.generation import BatchSize, Engine, has_vllm, vllm_if_it_loads
from hubkit.models.chat.stop_rate import StopRate, measure
from hubkit.models.chat.stop_rates import PUBLISHED, Form, MeasuredRate, StopRates, Token
from hubkit.models.load import Source, load_adapter, load_model, load_tokenizer, memory_released, training_dtype
from hubkit.models.merging.merged import MergedWeights
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData
from hubkit.training.launching import ranks
from hubkit.training.launching.launch import Launching

VERSION = 4
SHAPED_BY = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Settings:
    """How the stop rate is measured; ``dtype`` of the base alone, ``quantization`` of the variant's training.

    ``vllm`` is its version where it answers (empty: it is asked for and not installed); None: transformers does.
    ``launch``: processes that share the prompts, each with a whole model.
    """

    prompts: int
    max_new_tokens: int
    batch_size: BatchSize
    vllm: str | None
    dtype: str | None
    quantization: Literal["nf4", "none"] | None
    launch: Launching | None = field(default=None, metadata={"counts": False})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        rate, variant = recipe.gates.on_stop_rate(), scope.variant
        vllm = rate.backend == "vllm" or (rate.backend == "auto" and has_vllm())
        return cls(
            prompts=rate.prompts,
            max_new_tokens=rate.max_new_tokens,
            batch_size=rate.batch_size,
            vllm=installed("vllm") or "" if vllm else None,
            dtype=recipe.base.dtype if variant is None else None,
            quantization=recipe.stages[recipe.variants[variant].stage].quantization if variant else None,
            launch=None if vllm else Launching.of_measuring(recipe.launch, scope.recipe_folder),
        )


@dataclass(frozen=True)
class Inputs:
    """The base, the held-out prompts, and the forms of the variant (None: the base alone is measured)."""

    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter | None = None
    merged: MergedWeights | None = None


Output = StopRates


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """What answers the prompts, where it is not transformers. The settings are checked when read."""
    if ctx.settings.vllm == "":
        yield Finding(
            "error",
            "gates.stop_rate.backend is vllm, but vLLM is not installed.",
            "pip install vllm on a machine with a supported GPU, or set gates.stop_rate.backend: auto.",
            2,
        )
    elif ctx.settings.vllm is not None:
        yield Finding(
            "note",
            f"vLLM {ctx.settings.vllm} generates the answers of the stop rate. hubkit has not been tested with it: if"
            " the rates look odd, compare them with gates.stop_rate.backend: hf.",
        )


def run(ctx: Context[Settings, Inputs]) -> StageResult[StopRates]:
    """Write ``stopping.json``: one model in memory at a time.

    ConflictError when the merged weights and the adapter on its base are far from being one model.
    """
    ranks.join(ranks.MEASURING_WAIT)
    forms, skipped = _forms(ctx)
    measured: dict[Form, MeasuredRate] = {}
    readings = _Readings(several="adapter" in forms)
    for place, (name, load) in enumerate(forms.items()):
        ctx.report(f"{name}: loading", place / len(forms))
        with memory_released():
            measured[name] = MeasuredRate.of(_measure(ctx, name, load, place / len(forms), 1 / len(forms), readings))
    agreement = readings.agreement()
    if agreement is not None:
        agreement.refuse_if_apart("After the merge")
    if readings.forms:
        form_agreement.keep(ctx.out, readings.texts, readings.forms)
    end_of_turn = ctx.inputs.base.end_of_turn
    rates = StopRates(
        max_new_tokens=ctx.settings.max_new_tokens,
        prompts=next(iter(measured.values())).prompts,
        end_of_turn=Token(end_of_turn.token, end_of_turn.id),
        forms=measured,
        skipped=skipped,
        agreement=agreement,
    )
    figure = ", ".join(f"{name} {share(rate.rate)}" for name, rate in measured.items())
    if agreement is not None:
        figure += f"; {share(agreement.forms.same_next_token)} of next tokens equal"
        figure += f" ({share(agreement.floor.same_next_token)} by rounding alone)" if agreement.floor else ""
    return StageResult(rates, figure, facts={"rates": {name: rate.rate for name, rate in measured.items()}})


@dataclass
class _Readings:
    """What each published form expects after the tokens of the merged weights' own answers.

    ``several``: there is an adapter to compare the merged weights with.
    """

    several: bool
    texts: list[list[int]] = field(default_factory=list)
    forms: dict[str, Predictions] = field(default_factory=dict)
    wider: Predictions | str = ""

    def read(self, name: Form, model: Any, tokenizer: Any, prompts: list[dict[str, Any]], rate: StopRate) -> None:
        """Let ``model`` read them; the merged weights come first, and once more in a wider dtype."""
        if name not in PUBLISHED:
            return
        if name == "merged":
            self.texts = form_agreement.conversations(tokenizer, prompts, rate.answers)
        self.forms[name] = form_agreement.predict(model, self.texts)
        if name == "merged" and self.several:
            self.wider = form_agreement.predict_wider(model, self.texts)

    def agreement(self) -> FormAgreement | None:
        """How far the published forms agree; None when there is one or none."""
        if "adapter" not in self.forms:
            return None
        merged, wider = self.forms["merged"], self.wider
        return FormAgreement(
            dtype=merged.dtype,
            wider=wider.dtype if isinstance(wider, Predictions) else form_agreement.WIDER.get(merged.dtype, ""),
            conversations=len(self.texts),
            forms=merged.against(self.forms["adapter"]),
            floor=merged.against(wider) if isinstance(wider, Predictions) else None,
            no_floor=None if isinstance(wider, Predictions) else wider,
        )


Load = Callable[[], tuple[Any, Any]]
"""Loads a model and its tokenizer."""


def _forms(ctx: Context[Settings, Inputs]) -> tuple[dict[Form, Load], dict[Form, str]]:
    """How to load each form, and why a form is left out."""
    base, trained, merged, dtype = ctx.inputs.base, ctx.inputs.adapter, ctx.inputs.merged, ctx.settings.dtype
    endpoint = ctx.target.endpoint
    source = base.source(endpoint)
    if trained is None or merged is None:
        return {"base": lambda: (load_model(source, dtype=dtype or base.dtype), base.load_tokenizer(endpoint))}, {}

    def load_merged() -> tuple[Any, Any]:
        return load_model(merged.model), load_tokenizer(merged.model)

    def load_on_base() -> tuple[Any, Any]:
        model = load_model(source, dtype=merged.dtype)
        return load_adapter(model, trained.weights), base.load_tokenizer(endpoint)

    def load_four_bit() -> tuple[Any, Any]:
        model = load_model(source, dtype=training_dtype(), quantization="nf4")
        return load_adapter(model, trained.weights), base.load_tokenizer(endpoint)

    if trained.form == "weights":
        return {"merged": load_merged}, {}
    forms: dict[Form, Load] = {"merged": load_merged, "adapter": load_on_base}
    if ctx.settings.quantization == "none":
        return forms, {"four-bit": "the adapter was not trained on a quantized base"}
    try:
        version("bitsandbytes")
    except PackageNotFoundError:
        return forms, {"four-bit": "bitsandbytes is not installed"}
    return {**forms, "four-bit": load_four_bit}, {}


def _measure(
    ctx: Context[Settings, Inputs], name: Form, load: Load, start: float, part: float, readings: _Readings
) -> StopRate:
    """Load one form and measure it."""
    settings, prompts = ctx.settings, ctx.inputs.data.held_out(ctx.settings.prompts)
    with _engine(ctx, name) as engine:
        model, tokenizer = load()
        rate = measure(
            model,
            tokenizer,
            prompts,
            ctx.inputs.base.end_of_turn,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            engine=engine,
            together=ranks.together(),
            report=lambda figure, done: ctx.report(f"{name}: {figure}", start + part * (done or 0.0)),
        )
    readings.read(name, model, tokenizer, prompts, rate)
    return rate


def _engine(ctx: Context[Settings, Inputs], name: Form) -> AbstractContextManager[Engine | None]:
    """What generates the answers of a form in the model's place; None where transformers does."""
    base, trained, merged = ctx.inputs.base, ctx.inputs.adapter, ctx.inputs.merged
    if not ctx.settings.vllm or name == "four-bit":
        return nullcontext()
    source: Source = merged.model if name == "merged" and merged else base.source(ctx.target.endpoint)
    return vllm_if_it_loads(
        source,
        merged.dtype if merged else ctx.settings.dtype or base.dtype,
        base.end_of_turn,
        max_new_tokens=ctx.settings.max_new_tokens,
        adapter=trained.weights if name == "adapter" and trained else None,
    )
