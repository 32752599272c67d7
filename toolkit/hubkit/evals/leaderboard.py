"""The Open LLM Leaderboard (second version, 2024-2025): its six benchmarks in lm-eval's ``leaderboard_*`` tasks.

Its average is not one of raw accuracies: each benchmark is rescaled so that guessing counts 0 and all right counts 1,
and what is below guessing counts 0. Source: the Leaderboard's documentation, "Scores Normalization"
(huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization). It writes the result times 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Benchmark:
    """One of the six.

    ``prefix`` begins the names of its tasks and ``parts`` end them (``""``: a single task). ``choices`` are the answers
    among which each part has to choose, empty where an answer is written freely. ``metrics`` are averaged. ``by_size``:
    the parts count by their questions and are rescaled together; else each is rescaled and all count alike.
    ``shots`` are the examples in the prompt, as the task files set them.
    """

    title: str
    prefix: str
    metrics: tuple[str, ...]
    shots: int
    parts: tuple[str, ...] = ("",)
    choices: Mapping[str, int] = field(default_factory=dict)
    by_size: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks in lm-eval."""
        return tuple(f"{self.prefix}_{part}" if part else self.prefix for part in self.parts)

    def chance(self, task: str) -> float:
        """What guessing gives in ``task``, as a share from 0 to 1."""
        part = task.removeprefix(self.prefix).removeprefix("_")
        return 1 / self.choices[part] if part in self.choices else 0.0


_BBH = {
    "boolean_expressions": 2,
    "causal_judgement": 2,
    "date_understanding": 6,
    "disambiguation_qa": 3,
    "formal_fallacies": 2,
    "geometric_shapes": 11,
    "hyperbaton": 2,
    "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7,
    "logical_deduction_three_objects": 3,
    "movie_recommendation": 6,
    "navigate": 2,
    "object_counting": 19,
    "penguins_in_a_table": 5,
    "reasoning_about_colored_objects": 18,
    "ruin_names": 6,
    "salient_translation_error_detection": 6,
    "snarks": 2,
    "sports_understanding": 2,
    "temporal_sequences": 4,
    "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3,
    "web_of_lies": 2,
}
_GPQA = {"diamond": 4, "extended": 4, "main": 4}
_MATH = ("algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalculus")
_MUSR = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("IFEval", "leaderboard_ifeval", ("inst_level_strict_acc", "prompt_level_strict_acc"), 0),
    Benchmark("BBH", "leaderboard_bbh", ("acc_norm",), 3, tuple(_BBH), _BBH),
    Benchmark(
        "MATH Lvl 5",
        "leaderboard_math",
        ("exact_match",),
        4,
        tuple(f"{name}_hard" for name in _MATH),
        by_size=True,
    ),
    Benchmark("GPQA", "leaderboard_gpqa", ("acc_norm",), 0, tuple(_GPQA), _GPQA, by_size=True),
    Benchmark("MuSR", "leaderboard_musr", ("acc_norm",), 0, tuple(_MUSR), _MUSR),
    Benchmark("MMLU-PRO", "leaderboard_mmlu_pro", ("acc",), 5, choices={"": 10}),
)
TASKS: tuple[str, ...] = tuple(task for benchmark in BENCHMARKS for task in benchmark.tasks)


def benchmark_of(task: str) -> Benchmark | None:
    """The benchmark to which lm-eval's ``task`` belongs; None for a task of no leaderboard."""
    return next((item for item in BENCHMARKS if task in item.tasks), None)
