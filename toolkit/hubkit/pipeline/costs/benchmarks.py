"""How much lm-eval asks of a model: questions, answers to each, and tokens of a request, by task.

Questions are those of the splits that lm-eval scores; the standard errors of published tables agree with them
(``score * (1 - score) / stderr ** 2``). A task whose answers are single letters is
one request a question, as lm-eval takes all letters from one forward pass; others are one request an answer. Tokens are
assumed, from a look at the prompts without examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.evals.suites import Suite, resolve
from hubkit.recipe.models import Evaluate

OWN_ANSWERS, OWN_TOKENS = 4, 100
"""Assumed of a question in the recipe's own task files."""


@dataclass(frozen=True)
class Task:
    """Requests to score: ``questions`` times ``answers``, of ``tokens`` tokens each."""

    questions: int
    answers: float
    tokens: int


@dataclass(frozen=True)
class Work:
    """The requests of a recipe's suites: their number, mean and greatest tokens; and the suites that are unknown."""

    requests: float = 0.0
    tokens: float = 0.0
    longest: int = 0
    unknown: tuple[str, ...] = ()


_BIGBENCH = {
    "causal_judgment": Task(190, 2, 260),
    "date_understanding": Task(369, 6, 80),
    "disambiguation_qa": Task(258, 3, 60),
    "geometric_shapes": Task(359, 10, 180),
    "logical_deduction": Task(1500, 5.5, 170),
    "movie_recommendation": Task(500, 4, 60),
    "navigate": Task(1000, 2, 90),
    "reasoning_about_colored_objects": Task(2000, 18, 110),
    "ruin_names": Task(448, 4, 40),
    "salient_translation_error_detection": Task(998, 6, 250),
    "snarks": Task(181, 2, 60),
    "sports_understanding": Task(986, 2, 40),
    "temporal_sequences": Task(1000, 4, 170),
    "tracking_shuffled_objects": Task(3300, 5.9, 150),
}
TASKS: Mapping[str, Task] = {
    "agieval_aqua_rat": Task(254, 1, 130),
    "agieval_logiqa_en": Task(651, 1, 230),
    "agieval_lsat_ar": Task(230, 1, 290),
    "agieval_lsat_lr": Task(510, 1, 290),
    "agieval_lsat_rc": Task(269, 1, 850),
    "agieval_sat_en": Task(206, 1, 1000),
    "agieval_sat_en_without_passage": Task(206, 1, 130),
    "agieval_sat_math": Task(220, 1, 130),
    **{f"bigbench_{name}_multiple_choice": task for name, task in _BIGBENCH.items()},
    "arc_challenge": Task(1172, 4, 45),
    "arc_easy": Task(2376, 4, 40),
    "boolq": Task(3270, 2, 160),
    "hellaswag": Task(10042, 4, 110),
    "openbookqa": Task(500, 4, 25),
    "piqa": Task(1838, 2, 50),
    "winogrande": Task(1267, 2, 30),
    "truthfulqa_mc1": Task(817, 5, 230),
    "truthfulqa_mc2": Task(817, 7.2, 230),
}
"""By lm-eval's name."""


def work_of(asked: Evaluate, folder: Path) -> Work:
    """The requests of ``asked``; ``folder`` has the recipe's files."""
    include = folder / asked.include if asked.include else None
    try:
        suites = resolve(asked.suites, include)
    except HubkitError as error:
        return Work(unknown=tuple(f"{name} ({error.message.rstrip('.')})" for name in asked.suites))
    found: list[Task] = []
    unknown = []
    for suite in {suite.name: suite for suite in suites}.values():
        tasks = _own(suite, include) if suite.own and include else [TASKS.get(name) for name in suite.tasks]
        if any(task is None for task in tasks):
            unknown.append(suite.name)
        found += [task for task in tasks if task is not None]
    shots = 1 + (asked.num_fewshot or 0)  # an example is about as long as its question
    requests = [
        (min(task.questions, asked.limit or task.questions) * task.answers, shots * task.tokens) for task in found
    ]
    total = sum(number for number, _ in requests)
    return Work(
        requests=total,
        tokens=sum(number * tokens for number, tokens in requests) / total if total else 0.0,
        longest=max((tokens for _, tokens in requests), default=0),
        unknown=tuple(unknown),
    )


def _own(suite: Suite, include: Path) -> list[Task | None]:
    """The tasks of the recipe's own files: a question for each line of their data, shared out evenly."""
    lines = sum(
        sum(1 for line in path.read_bytes().splitlines() if line.strip())
        for path in sorted(include.rglob("*.jsonl"))
        if path.is_file()
    )
    if not lines:
        return [None for _ in suite.tasks]
    return [Task(lines // len(suite.tasks) or 1, OWN_ANSWERS, OWN_TOKENS) for _ in suite.tasks]
