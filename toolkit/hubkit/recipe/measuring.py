"""What the recipe measures, and the gates on it: ``evaluate`` and ``gates``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from hubkit.recipe.benchmark_keys import BenchmarkCondition, Limits, ResultFiles, conditions
from hubkit.recipe.values import BatchSize, Model


class Evaluate(Model):
    """Benchmarks, run by lm-evaluation-harness."""

    suites: tuple[str, ...] = Field(
        (),
        strict=False,
        description="built-in suites (agieval, bigbench, gpt4all, truthfulqa, openllm) or lm-eval tasks; "
        "none is measured when absent",
    )
    include: str | None = Field(None, description="a folder of your own lm-eval task files, beside the recipe")
    results: ResultFiles = Field(
        default_factory=dict,
        description="results of runs elsewhere, as files or patterns beside the recipe: a list for main, or by variant "
        "and `base`; the card shows them apart, with their file named",
    )
    backend: Literal["hf", "vllm"] = Field("hf", description="what runs the model: hf (transformers) or vllm")
    limit: int | None = Field(
        None, gt=0, description="examples per task, for a trial; the card then marks the results as a partial run"
    )
    num_fewshot: int | None = Field(None, ge=0, description="few-shot examples; each task's own number when absent")
    apply_chat_template: bool = Field(False, description="format each question with the chat template")
    fewshot_as_multiturn: bool | None = Field(
        None,
        description="few-shot examples as turns of a conversation; when absent, if the chat template is used",
    )
    batch_size: BatchSize = Field(
        "auto", description="sequences per batch; auto: as many as a GPU's memory holds (lm-eval tries it), 8 on a CPU"
    )


class StopRate(Model):
    """The gate on the stop rate: the share of greedy answers that emit the end-of-turn token within the token limit."""

    prompts: int = Field(256, gt=0, description="how many prompts to hold out")
    prompts_from: str | None = Field(
        None,
        description="the entry of `data` to hold them out from, never trained on; hubkit's own prompts when absent",
    )
    max_new_tokens: int = Field(1024, gt=0, description="token limit of each answer")
    at_least: float | str = Field("base - 0.02", description="the least stop rate that passes: a share, or 'base - X'")
    batch_size: BatchSize = Field(
        "auto", description="prompts per batch; auto: what the free memory holds, and half of it each time it does not"
    )
    backend: Literal["auto", "hf", "vllm"] = Field(
        "auto",
        description="what generates the answers: hf (transformers) or vllm; auto: vllm where it is installed and there "
        "is a GPU, else hf",
    )

    @model_validator(mode="after")
    def _threshold(self) -> StopRate:
        self.threshold(1.0)
        return self

    def threshold(self, base_rate: float) -> float:
        """The least stop rate that passes, as a share, when the base's is ``base_rate``."""
        if isinstance(self.at_least, str):
            margin = re.fullmatch(r"base\s*-\s*(0?\.\d+|0)", self.at_least.strip())
            if not margin:
                raise ValueError(f"at_least: {self.at_least!r} is neither a share such as 0.95 nor 'base - 0.02'")
            return max(0.0, base_rate - float(margin[1]))
        if not 0 <= self.at_least <= 1:
            raise ValueError(f"at_least: {self.at_least} is not a share between 0 and 1")
        return self.at_least


class Probe(Model):
    """The stop rate while a stage trains: a few held-out prompts are answered every so many steps, and at the end.

    It changes nothing of what is trained, and is on unless a recipe writes `probe: none`.
    """

    every: int = Field(
        50, gt=0, description="steps between two probes; more where they would take too much time (`max_share`)"
    )
    prompts: int = Field(16, gt=0, le=1024, description="how many of the held-out prompts are asked")
    max_new_tokens: int | None = Field(
        None,
        gt=0,
        description="token limit of each answer; when absent, that of the gate, at most 256",
    )
    stop_below: float | None = Field(
        None,
        gt=0,
        le=1,
        description="end the run (exit code 3) when the stop rate, once it was at least this share, falls below it; "
        "the last good checkpoint is kept",
    )
    max_share: float = Field(
        0.02,
        gt=0,
        le=1,
        description="the most that probes may take of the training time; the one after the last step comes in any case",
    )


class Gates(Model):
    """Conditions that must hold before a branch is promoted."""

    stop_rate: StopRate | None = Field(
        None, description="the gate on the stop rate; when absent, the stop rate is not measured"
    )
    benchmarks: Mapping[str, Limits] = Field(
        default_factory=dict,
        description="by suite or task: 'base - X', 'current - X' (what the branch publishes now), or a list of both; a "
        "drop of more than X that exceeds its error fails",
    )

    @property
    def are_set(self) -> bool:
        """Whether there is any condition."""
        return any(getattr(self, name) for name in type(self).model_fields)

    def on_stop_rate(self) -> StopRate:
        """The gate on the stop rate. ValueError without one: no step that measures it belongs in the release."""
        if self.stop_rate is None:
            raise ValueError("the recipe has no gate on the stop rate")
        return self.stop_rate

    def conditions(self) -> tuple[BenchmarkCondition, ...]:
        """The conditions on benchmarks, one by one."""
        return tuple(conditions(self.benchmarks))
