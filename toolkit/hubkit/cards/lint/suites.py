"""The benchmark suites that a card's headings and task names stand for."""

from __future__ import annotations

import re

from hubkit.evals.suites import SUITES

_SUITE_NAMES = {
    "agieval": re.compile(r"agi[\s_-]?eval", re.IGNORECASE),
    "bigbench": re.compile(r"big[\s_-]?bench(?:[\s_-]?hard)?|\bbbh\b", re.IGNORECASE),
    "gpt4all": re.compile(r"gpt[\s_-]?4[\s_-]?all", re.IGNORECASE),
    "truthfulqa": re.compile(r"truthful[\s_-]?qa", re.IGNORECASE),
    "openllm": re.compile(r"open[\s_-]?llm", re.IGNORECASE),
}
TITLES = {"agieval": "AGIEval", "bigbench": "BigBench", "gpt4all": "GPT4All", "truthfulqa": "TruthfulQA",
           "openllm": "Open LLM"}  # fmt: skip
_OPENLLM = frozenset({"arc_challenge", "hellaswag", "winogrande", "gsm8k", "ifeval", "gpqa", "musr"})
_PREFIXES = (
    ("agieval_", "agieval"), ("bigbench_", "bigbench"), ("bbh_", "bigbench"), ("truthfulqa", "truthfulqa"),
    ("truthfulqa", "openllm"), ("leaderboard_", "openllm"), ("mmlu", "openllm"), ("hendryckstest", "openllm"),
)  # fmt: skip
"""Suites by the beginning of a task's name, also those of lm-evaluation-harness 0.3."""


def suites_of(task: str) -> frozenset[str]:
    """The suites that have a task of this name, in today's names and in the classic ones; empty when none has."""
    name = re.sub(r"[\s:-]+", "_", task.strip().lower())
    found = {suite.name for suite in SUITES.values() if name in suite.tasks and suite.name in _SUITE_NAMES}
    found |= {suite for prefix, suite in _PREFIXES if name.startswith(prefix)}
    return frozenset(found | ({"openllm"} if name in _OPENLLM else set()))


def named_suites(text: str) -> frozenset[str]:
    """The suites that a title names."""
    return frozenset(suite for suite, pattern in _SUITE_NAMES.items() if pattern.search(text))


def suite_of(name: str) -> str | None:
    """The suite of which this is a name, and nothing more."""
    return next((suite for suite, pattern in _SUITE_NAMES.items() if pattern.fullmatch(name.strip())), None)
