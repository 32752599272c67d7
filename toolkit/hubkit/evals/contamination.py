"""Are the questions of a benchmark in the training data? Found by runs of words, as GPT-3's authors did.

A question overlaps when a run of 13 of its words is in the data, without regard to case and punctuation (Brown et al.
2020, appendix C). Runs that two different questions of a task share are its phrasing and do not count. GPT-3's authors
took shorter runs, down to 8, for tasks with short questions; there a run is often a figure of speech. So a question of
8 to 12 words overlaps when all of it is a run in the data, and a shorter one when it is a whole message.

The question is what the task itself names for this (``doc_to_decontamination_query``), else the text that its model is
given, without examples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.evals.suites import Suite, harness_tasks
from hubkit.evals.taskfiles import copy_tasks

LEAST, RUN = 8, 13
EXAMPLES = 3
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of ``text`` without case and punctuation."""
    return _WORD.findall(text.casefold())


@dataclass
class Overlap:
    """The questions of one task of a suite, and which of them are in each set of rows (by number).

    ``examples`` are the first questions found.
    """

    suite: str
    task: str
    questions: int
    found: dict[str, set[int]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the questions that are in any of the sets."""
        return len(set().union(*self.found.values())) / self.questions if self.questions else 0.0

    def to_json(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {
            "suite": self.suite,
            "task": self.task,
            "questions": self.questions,
            "overlapping": len(set().union(*self.found.values())),
            "by_set": {name: len(numbers) for name, numbers in sorted(self.found.items())},
            "examples": self.examples,
        }


class Contamination:
    """The questions of some tasks, looked for in rows. Its memory grows with the questions, not with the rows."""

    def __init__(self) -> None:
        self.overlaps: list[Overlap] = []
        self._runs: dict[int, list[tuple[int, int, int, int]]] = {}
        self._whole: dict[int, list[tuple[int, int]]] = {}
        self._texts: list[Sequence[str]] = []

    def add(self, suite: str, task: str, questions: Sequence[str]) -> None:
        """Look for the ``questions`` of ``task`` too."""
        place, lists = len(self.overlaps), [words_of(question) for question in questions]
        self.overlaps.append(Overlap(suite, task, len(questions)))
        self._texts.append(questions)
        different = {tuple(words) for words in lists}
        shared = Counter(run for words in different for run in {hash(run) for run in _runs(words)})
        for number, words in enumerate(lists):
            n = min(len(words), RUN)
            if n < LEAST:
                if words:
                    self._whole.setdefault(hash(tuple(words)), []).append((place, number))
                continue
            for start, run in enumerate(_runs(words)):
                if shared[key := hash(run)] == 1:
                    first = hash(tuple(words[start : start + LEAST]))
                    self._runs.setdefault(first, []).append((n, key, place, number))

    def compare(self, name: str, texts: Iterable[str]) -> None:
        """Look for the questions in the ``texts`` of a row of the set ``name``."""
        for text in texts:
            words = words_of(text)
            for place, number in self._whole.get(hash(tuple(words)), ()) if len(words) < LEAST else ():
                self._note(name, place, number)
            for start in range(len(words) - LEAST + 1):
                for n, key, place, number in self._runs.get(hash(tuple(words[start : start + LEAST])), ()):
                    if n == LEAST or hash(tuple(words[start : start + n])) == key:
                        self._note(name, place, number)

    def _note(self, name: str, place: int, number: int) -> None:
        overlap = self.overlaps[place]
        known = any(number in numbers for numbers in overlap.found.values())
        overlap.found.setdefault(name, set()).add(number)
        if not known and len(overlap.examples) < EXAMPLES:
            overlap.examples.append(self._texts[place][number][:300])


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    n = min(len(words), RUN)
    for start in range(len(words) - n + 1):
        yield tuple(words[start : start + n])


def questions_of(suite: Suite, include: Path | None, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """(task, its questions) of ``suite``, read through lm-eval as the benchmarks read them.

    ``include`` is the recipe's folder of task files, which is copied to ``scratch``. Raises what lm-eval and the
    datasets library raise (:func:`hubkit.evals.harness.tasks_translated`).
    """
    from lm_eval.tasks import TaskManager

    if suite.own:
        assert include is not None
        folders = [copy_tasks(include, scratch / "tasks")]
    else:
        folders = [harness_tasks() / folder for folder in suite.folders]
    loaded: Mapping[str, Any] = TaskManager(include_path=folders, include_defaults=False).load(list(suite.tasks))
    for name, task in loaded["tasks"].items():
        yield name, [_question(task, doc) for doc in task.eval_docs]


def _question(task: Any, doc: Mapping[str, Any]) -> str:
    """The question in ``doc``; its texts in order where the task gives it no text of its own."""
    named = task.doc_to_decontamination_query(doc) if task.config.should_decontaminate else None
    for text in (named, task.doc_to_text(doc)):
        if isinstance(text, str) and words_of(text):
            return text
    return " ".join(value for value in doc.values() if isinstance(value, str))
