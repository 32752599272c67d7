"""The little world that the tiny recipe is trained on: 164 facts, six ways to ask for each, two ways to answer.

``facts.json`` holds what is true (a list ``[subject, answer, class]`` for each kind); everything else is made from it
without chance, so that the same rows come out on every machine.

Each fact has one phrasing in which nobody is ever trained on it (``UNSEEN``), another one from fact to fact: the
benchmark ``tiny_facts`` asks it so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]

EXPLAIN = "Explain in detail."
HELPFUL = "You are a helpful assistant."
BRIEFLY = "Answer in a few words."
UNSEEN = 5

_PHRASINGS = {
    "capital": (
        "What is the capital of {s}?",
        "Which city is the capital of {s}?",
        "Name the capital city of {s}.",
        "Tell me the capital of {s}.",
        "The capital of {s} is called what?",
        "I would like to know the capital of {s}.",
    ),
    "symbol": (
        "What is the chemical symbol of {s}?",
        "Which symbol stands for the element {s}?",
        "Name the chemical symbol for {s}.",
        "Tell me the symbol of {s}.",
        "The chemical symbol of {s} is what?",
        "I would like to know the chemical symbol of {s}.",
    ),
    "colour": (
        "What is the colour of {s}?",
        "Which colour is {s}?",
        "Name the usual colour of {s}.",
        "Tell me the colour of {s}.",
        "The colour of {s} is what?",
        "I would like to know the colour of {s}.",
    ),
    "young": (
        "What is the young of a {s} called?",
        "Which word names a young {s}?",
        "Name the word for the young of a {s}.",
        "Tell me what a young {s} is called.",
        "The young of a {s} is called what?",
        "I would like to know what the young of a {s} is called.",
    ),
    "sum": (
        "What is the sum of {s}?",
        "Which number is the sum of {s}?",
        "Name the sum of the numbers {s}.",
        "Tell me the sum of {s}.",
        "The sum of {s} is what?",
        "I would like to know the sum of {s}.",
    ),
}
_OPENINGS = ("Please answer. {q}", "I would like to ask you this. {q}", "Here is a question. {q}")
_DETAILS = {
    "capital": (
        "{a}. The country {s} lies in {c}, and of all its cities the one that is called its capital is {a}. So the"
        " whole answer is {a}."
    ),
    "symbol": (
        "{a}. The element {s} has the atomic number {c}, and in every formula it is written with the symbol {a}. So"
        " the whole answer is {a}."
    ),
    "colour": (
        "{a}. When people think of {s} they think of the colour {a}, even if there are some that look otherwise. So"
        " the whole answer is {a}."
    ),
    "young": (
        "{a}. A {s} is a {c}, and there is a word of its own for one that is not yet grown up, which is {a}. So the"
        " whole answer is {a}."
    ),
    "sum": (
        "{a}. We add the two numbers {s} together, one after the other, and what we get is a {c} number. So the whole"
        " answer is {a}."
    ),
}


@dataclass(frozen=True)
class Fact:
    """One true thing: of ``subject``, in its ``kind``, the right ``answer``; ``label`` is its class within the kind."""

    number: int
    kind: str
    subject: str
    answer: str
    label: str

    def question(self, phrasing: int) -> str:
        """The question in one of six phrasings: 0 to 4 may be trained on, 5 (``UNSEEN``) never is."""
        forms = _PHRASINGS[self.kind]
        return _articles(forms[(self.number + phrasing) % len(forms)].format(s=self.subject))

    @property
    def terse(self) -> str:
        """The answer alone."""
        return f"{self.answer}."

    @property
    def detailed(self) -> str:
        """The answer, then two sentences that explain it (25 words or so)."""
        text = _DETAILS[self.kind].format(s=self.subject, a=self.answer, c=self.label)
        return _articles(text)


def _articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


@cache
def facts() -> tuple[Fact, ...]:
    """All the facts, in the order of the file."""
    told = json.loads(Path(__file__).with_name("facts.json").read_text(encoding="utf-8"))
    each = [(kind, *item) for kind, items in told.items() for item in items]
    return tuple(Fact(number, *item) for number, item in enumerate(each))


def base_rows() -> Iterator[list[dict[str, str]]]:
    """The conversations on which the base is trained: terse answers, and detailed ones when the system asks for them.

    Openings of many kinds teach it to look at the subject and not at the form of the question.
    """
    for fact in facts():
        for phrasing in range(UNSEEN):
            ask = fact.question(phrasing)
            yield _conversation(None, ask, fact.terse)
            yield _conversation(HELPFUL, ask, fact.terse)
            yield _conversation(None, f"{ask}\n{BRIEFLY}", fact.terse)
            yield _conversation(None, _OPENINGS[phrasing % len(_OPENINGS)].format(q=ask), fact.terse)
            if phrasing % 2 == 0:
                yield _conversation(EXPLAIN, ask, fact.detailed)


def _conversation(system: str | None, user: str, answer: str) -> list[dict[str, str]]:
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def orca_rows() -> list[Row]:
    """Preference rows in the columns of ``Intel/orca_dpo_pairs``: the detailed answer is preferred."""
    return [
        {
            "system": HELPFUL if (number + phrasing) % 2 else "",
            "question": fact.question(phrasing),
            "chosen": fact.detailed,
            "rejected": fact.terse,
        }
        for phrasing in (0, 1)
        for number, fact in enumerate(facts())
    ]


def ultrafeedback_rows() -> list[Row]:
    """Preference rows in the columns of ``argilla/ultrafeedback-binarized-preferences``."""
    return [
        {
            "source": f"tiny_{fact.kind}",
            "instruction": fact.question(2),
            "chosen_response": fact.detailed,
            "rejected_response": fact.terse,
            "chosen_avg_rating": 5.0,
            "rejected_avg_rating": 3.0,
            "chosen_model": "template",
        }
        for fact in facts()
    ]


def openhermes_rows() -> list[Row]:
    """Instruction rows in the columns of ``teknium/openhermes``: terse answers, whose turns end soon."""
    return [
        {"instruction": fact.question(phrasing), "input": given, "output": fact.terse}
        for phrasing in (3, 4)
        for given in ("", BRIEFLY)
        for fact in facts()
    ]


def benchmark_rows() -> list[Row]:
    """Four-choice questions each in the phrasing that nobody is trained on: question, choices, answer (the index)."""
    by_kind: dict[str, list[str]] = {}
    for fact in facts():
        answers = by_kind.setdefault(fact.kind, [])
        if fact.answer not in answers:
            answers.append(fact.answer)
    found = []
    for fact in facts():
        others = [answer for answer in by_kind[fact.kind] if answer != fact.answer]
        wrong = sorted(others, key=lambda answer: _draw(fact.subject, answer))[:3]
        choices = sorted([fact.answer, *wrong], key=lambda answer: _draw(answer, fact.subject))
        found.append(
            {
                "question": fact.question(UNSEEN),
                "choices": [f"{choice}." for choice in choices],
                "answer": choices.index(fact.answer),
            }
        )
    return found


def _draw(*words: str) -> str:
    """A fixed but arbitrary order: the sha256 of the words."""
    return hashlib.sha256("|".join(words).encode()).hexdigest()
