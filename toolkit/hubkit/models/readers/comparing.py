"""What a reader reported of a model, judged: it works, or it fails and why, or nothing can be said.

Answers are compared in float32, where versions differ by rounding alone: an answer may part from the reference's only
where the reference's own scores of the two tokens are as near as rounding is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hubkit.core.numbers import counted
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.readers.asking import Report
from hubkit.models.readers.readers import FORM_NAMES, Form

Status = Literal["works", "fails", "not run"]
NEAR = 0.01
"""How far the scores of one token may be apart in float32 by rounding."""
NEAR_IN_16_BITS = 0.2
"""The same for llama.cpp, which rounds the activations to 16 bits, with weights in 16 or 32 bits."""


@dataclass(frozen=True)
class Cell:
    """How one program reads one form of a model. ``why`` is a sentence's middle; None when it works.

    ``versions`` are those that read it; ``stopped`` of ``answers`` ended at the end-of-turn token; ``same`` of them are
    the reference's, token by token; ``conversations`` had the same token ids. ``notes`` do not make it fail. ``file``
    is the name of the one that was read, of several GGUF files.
    """

    reader: str
    form: Form
    status: Status
    why: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    conversations: int | None = None
    answers: int | None = None
    stopped: int | None = None
    same: int | None = None
    notes: tuple[str, ...] = ()
    file: str | None = None

    @property
    def what(self) -> str:
        """What was read, in words: 'GGUF file model-Q8_0.gguf'."""
        return f"{FORM_NAMES[self.form]} {self.file}" if self.file else FORM_NAMES[self.form]

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True)
class Expected:
    """What the model should do: as the installed transformers reads it, and the token that ends its turns.

    ``report`` is None for the cell of the installed transformers itself, which is compared with nothing.
    """

    report: Report | None
    end_of_turn: EndOfTurn | None
    by: str = "the installed transformers"
    near: float = NEAR
    answers: bool = True


def judge(reader: str, form: Form, report: Report, expected: Expected) -> Cell:
    """The cell of ``report``, which ``reader`` made of ``form``."""
    if report.not_run is not None:
        return Cell(reader, form, "not run", report.not_run)
    content = report.content
    versions = content.get("versions", {})
    problem = next(_problems(report, expected, form), None)
    answers = content.get("answers") or []
    end = expected.end_of_turn.id if expected.end_of_turn else None
    stopped = sum(bool(item["ids"]) and item["ids"][-1] == end for item in answers)
    reference = expected.report.content if expected.report else {}
    same = sum(item["ids"] == other["ids"] for item, other in _pairs(answers, reference.get("answers") or []))
    asked = form != "tokenizer" and bool(answers)
    facts = Cell(
        reader,
        form,
        "works",
        versions=versions,
        conversations=len(content.get("renderings") or {}) + len(content.get("texts") or {}),
        answers=len(answers) if asked else None,
        stopped=stopped if asked else None,
        same=same if asked and expected.report and expected.answers else None,
        notes=tuple(_notes(content, reference, expected.by)),
    )
    if problem is not None:
        return _as(facts, "fails", problem)
    if form != "tokenizer" and not stopped:
        return _as(
            facts, "not run", f"none of {counted(len(answers), 'answer')} ended, so nothing was seen of stopping"
        )
    return facts


def _notes(content: Mapping[str, Any], reference: Mapping[str, Any], by: str) -> Iterator[str]:
    """What a person may want to know of a reader that works."""
    yield from (text[:300] for text in content.get("warnings") or ())
    own, its = content.get("dtype"), reference.get("dtype")
    if own is not None and its is not None and own != its:
        yield f"torch_dtype of config.json is {own} to it, and {its} to {by}"


def _as(cell: Cell, status: Status, why: str) -> Cell:
    return Cell(**{**asdict(cell), "status": status, "why": why})


def _problems(report: Report, expected: Expected, form: Form) -> Iterator[str]:
    """What is wrong, the cause before what follows of it."""
    content = report.content
    if report.broke_off:
        yield report.broke_off
    for item in content.get("failed") or ():
        yield (
            f"{item['what']} cannot be loaded: {_first_line(item['error'])}"
            if item["what"] != "the answers"
            else (f"it cannot be asked: {_first_line(item['error'])}")
        )
    if report.broke_off:
        return
    reference = expected.report.content if expected.report else None
    yield from _template_problems(content.get("renderings") or {}, (reference or {}).get("renderings"), expected.by)
    if reference is not None and form == "gguf":
        yield from _own_template_problems(content.get("template"), reference.get("template"), expected.by)
    if reference is not None:
        yield from _text_problems(content.get("texts") or {}, reference.get("texts") or {}, expected.by)
    if form == "tokenizer":
        return
    yield from _stop_problems(content, expected.end_of_turn)
    if reference is not None and expected.answers:
        yield from _answer_problems(content.get("answers") or [], reference.get("answers") or [], expected)


def _template_problems(found: Mapping[str, Any], reference: Mapping[str, Any] | None, by: str) -> Iterator[str]:
    """Conversations that the chat template renders otherwise, or not at all."""
    if not any("ids" in item for item in found.values()):
        reason = next((item["refused"] for item in found.values() if "refused" in item), "there is none")
        yield f"the chat template cannot be used: {_first_line(reason)}"
        return
    for name, item in found.items():
        other = reference.get(name) if reference is not None else None
        if other is None:
            continue
        if "refused" in item and "ids" in other:
            yield f"the chat template cannot be used ({name}): {_first_line(item['refused'])}"
        elif "ids" in item and "refused" in other:
            yield f"the chat template renders what {by} refuses ({name})"
        elif item.get("text") != other.get("text"):
            yield f"the chat template renders another text than by {by} ({name})"
        elif item.get("ids") != other.get("ids"):
            place = _first_difference(item["ids"], other["ids"])
            yield f"the token ids are others than by {by} ({name}, token {place})"


def _own_template_problems(found: str | None, reference: str | None, by: str) -> Iterator[str]:
    """A template in a GGUF file that is not the one by which the conversations were rendered."""
    if not found:
        yield "the chat template cannot be used: there is none in the file"
    elif reference is not None and found.rstrip("\n") != reference.rstrip("\n"):
        yield f"the chat template in the file is another than the one that {by} reads"


def _text_problems(found: Mapping[str, Any], reference: Mapping[str, Any], by: str) -> Iterator[str]:
    for text, ids in found.items():
        other = reference.get(text)
        if other is not None and ids != other:
            yield f"the token ids of plain text are others than by {by} (token {_first_difference(ids, other)})"


def _stop_problems(content: Mapping[str, Any], end: EndOfTurn | None) -> Iterator[str]:
    """What keeps an answer from ending: the model's files, read by this reader, name another token or none."""
    if end is None:
        yield "the end-of-turn token is not known: the chat template does not close the assistant's turn"
        return
    ends = content.get("eos") or []
    if end.id not in ends:
        named = ", ".join(map(str, ends)) or "none"
        yield f"answers do not stop at {end.token}: the token ids that end generation are {named}, without {end.id}"
    if any(end.id in item["ids"][:-1] for item in content.get("answers") or ()):
        yield f"answers go on after {end.token}"


def _answer_problems(
    answers: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], expected: Expected
) -> Iterator[str]:
    """Answers that are others than the reference's beyond rounding; and scores that are, where the tokens are equal."""
    pairs = list(_pairs(answers, reference))
    if len(pairs) != len(reference):
        yield f"{counted(len(reference) - len(pairs), 'prompt')} got no answer"
    others = [place for item, other in pairs if (place := _parts_at(item, other, expected.near)) is not None]
    if others:
        yield (
            f"answers are others than by {expected.by}, beyond rounding: {len(others)} of {len(pairs)},"
            f" from token {min(others)} on"
        )


def _pairs(
    answers: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    by_name = {item["prompt"]: item for item in reference}
    return ((item, by_name[item["prompt"]]) for item in answers if item["prompt"] in by_name)


def _parts_at(answer: Mapping[str, Any], reference: Mapping[str, Any], near: float) -> int | None:
    """The place of the token from which ``answer`` is another than ``reference`` beyond rounding; None: nowhere."""
    own = answer.get("best")
    for place, token in enumerate(reference["ids"]):
        if place >= len(answer["ids"]):
            return place
        scores = {int(number): float(value) for number, value in reference["best"][place]}
        found = answer["ids"][place]
        if found != token:
            # The texts are others from here on: whether rounding explains it is all that can be said.
            return None if found in scores and max(scores.values()) - scores[found] <= near else place
        if own:
            mine = {int(number): float(value) for number, value in own[place]}
            if token in mine and token in scores and abs(mine[token] - scores[token]) > near:
                return place
    return None if len(answer["ids"]) == len(reference["ids"]) else len(reference["ids"])


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def _first_line(text: str) -> str:
    """The first line of an exception; with the next one, where it names the exception's kind alone."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [text]
    first = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return first[:240].rstrip(".:")
