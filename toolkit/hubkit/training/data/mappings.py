"""From a dataset's columns to conversations: the forms of datasets that are known, and which of them fits.

A preference row becomes ``{"prompt": [...], "chosen": [{assistant}], "rejected": [{assistant}]}``, an SFT row
``{"prompt": [...], "completion": [{assistant}]}``: lists of ``{"role", "content"}``, and ``tools`` where the row offers
any. So the trainers put the loss on the answer alone, with its end-of-turn token. Of a conversation with several turns
the last answer is the completion; a stage with ``train_on: all`` trains on the earlier ones, too.

    form = find(source.mapping, columns, source.name, renamed=source.columns, wanted="sft")
    for number, raw, row, reason in form.read(rows): ...
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from hubkit.core.errors import UsageError
from hubkit.recipe.models import Source
from hubkit.recipe.values import ColumnRole
from hubkit.training.data import forms
from hubkit.training.data.forms import Fields, Row
from hubkit.training.data.messages import BadRow, Message

__all__ = ["MAPPINGS", "BadRow", "Columns", "Converted", "Message", "Row", "find", "must_train", "name_problem"]

Kind = Literal["preference", "sft"]
METHOD_KINDS: Mapping[str, Kind] = {"dpo": "preference", "sft": "sft"}
"""The rows that each of hubkit's own training stages takes."""


class Converted(NamedTuple):
    """A row of a dataset: its number (from 0), its conversation, or the reason why it cannot be trained on.

    Neither: ``raw`` became part of another row.
    """

    number: int
    raw: Mapping[str, Any] | None
    row: Row | None
    reason: str | None


@dataclass(frozen=True)
class Columns:
    """One form: its name, what it makes, the columns that it needs, those that it reads where they are there, and how.

    ``roles`` and ``optional`` name the columns of a role (``prompt``). ``pairs_up``: a row is made of two rows.
    """

    name: str
    kind: Kind
    roles: Mapping[str, str]
    make: Callable[[Fields], Row]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unpaired: bool = False
    pairs_up: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return tuple(self.roles.values())

    def fits(self, columns: Collection[str]) -> bool:
        """Whether a set with these columns can be read so."""
        return set(self.needs) <= set(columns)

    def convert(self, row: Mapping[str, Any]) -> Row:
        """The conversation of ``row``. BadRow when it has none that can be trained on."""
        return self.make(self.fields(row))

    def fields(self, row: Mapping[str, Any]) -> Fields:
        """``row``, read by the roles of its columns."""
        return Fields(row, {**self.optional, **{role: (name,) for role, name in self.roles.items()}})

    def read(self, rows: Iterable[Mapping[str, Any] | None]) -> Iterator[Converted]:
        """The conversations of ``rows``, one by one; a row that is None is not text."""
        yield from _pairs(self, rows) if self.pairs_up else (self._one(*numbered) for numbered in enumerate(rows))

    def _one(self, index: int, row: Mapping[str, Any] | None) -> Converted:
        try:
            if row is None:
                raise BadRow("not UTF-8")
            return Converted(index, row, self.convert(row), None)
        except BadRow as reason:
            return Converted(index, row, None, str(reason))

    def suited(self, wanted: Kind | None) -> Columns:
        """This form for a stage that needs ``wanted`` rows: an unpaired preference can become either kind."""
        if not self.unpaired or wanted != "preference":
            return self
        return replace(self, kind="preference", make=forms.prompt_and_completion, pairs_up=True)


def _pairs(form: Columns, rows: Iterable[Mapping[str, Any] | None]) -> Iterator[Converted]:
    """Good and bad answers to the same prompt, paired in the order in which they come."""
    waiting: dict[str, list[tuple[bool, Converted]]] = {}
    for index, raw in enumerate(rows):
        made = form._one(index, raw)
        if made.row is None or raw is None:
            yield made
            continue
        try:
            good = forms.label(form.fields(raw))
        except BadRow as reason:
            yield Converted(index, raw, None, str(reason))
            continue
        prompt = json.dumps([made.row["prompt"], made.row.get("tools")], sort_keys=True)
        others = waiting.setdefault(prompt, [])
        if not others or others[0][0] == good:
            others.append((good, made))
            continue
        _, before = others.pop(0)
        if not others:
            del waiting[prompt]
        yield Converted(before.number, before.raw, None, None)
        yield _paired(*((made, before) if good else (before, made)))
    left = [item for others in waiting.values() for item in others]
    for good, made in sorted(left, key=lambda item: item[1].number):
        yield made._replace(row=None, reason=f"no {'worse' if good else 'better'} answer to the same prompt")


def _paired(good: Converted, bad: Converted) -> Converted:
    last = max(good, bad, key=lambda item: item.number)
    try:
        return last._replace(row=forms.paired(good.row or {}, bad.row or {}))
    except BadRow as reason:
        return last._replace(row=None, reason=str(reason))


_SYSTEM = ("system", "system_prompt", "system_message")
_TOOLS = ("tools", "functions")
_TALK: Mapping[str, tuple[str, ...]] = {"system": _SYSTEM, "tools": _TOOLS}
_PROMPTS = ("prompt", "instruction", "input", "question", "query")


def _answers(name: str, prompt: str, completion: str, *context: str) -> Columns:
    """A form of prompts with their answers; ``context``: the columns with what the prompt is about."""
    optional = {**_TALK, **({"input": context} if context else {})}
    return Columns(name, "sft", {"prompt": prompt, "completion": completion}, forms.prompt_and_completion, optional)


_PAIR = {"chosen": "chosen", "rejected": "rejected"}
MAPPINGS: Mapping[str, Columns] = {
    item.name: item
    for item in (
        Columns(
            "ultrafeedback", "preference",
            {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
            forms.plain_pair, _TALK,
        ),
        Columns("orca", "preference", {"prompt": "question", **_PAIR}, forms.plain_pair, _TALK),
        Columns("pairs", "preference", _PAIR, forms.pair, {**_TALK, "prompt": _PROMPTS}),
        Columns(
            "instruction", "sft", {"prompt": "instruction", "completion": "output"},
            forms.instruction, {**_TALK, "input": ("input",)},
        ),
        Columns("messages", "sft", {"messages": "messages"}, forms.talk, _TALK),
        Columns("sharegpt", "sft", {"messages": "conversations"}, forms.talk, _TALK),
        Columns(
            "ratings", "preference",
            {"prompt": "instruction", "completions": "generations", "ratings": "ratings"}, forms.rated, _TALK,
        ),
        Columns(
            "unpaired", "sft", {"prompt": "prompt", "completion": "completion", "label": "label"},
            forms.good_completion, _TALK, unpaired=True,
        ),
        _answers("prompt-completion", "prompt", "completion"),
        _answers("prompt-response", "prompt", "response"),
        _answers("dolly", "instruction", "response", "context"),
        _answers("generation", "instruction", "generation"),
        _answers("openorca", "question", "response"),
        _answers("question-answer", "question", "answer"),
        _answers("query-response", "query", "response"),
        _answers("problem-solution", "problem", "solution"),
        _answers("input-output", "input", "output"),
        _answers("inputs-targets", "inputs", "targets"),
        Columns("conversation", "sft", {"messages": "conversation"}, forms.talk, _TALK),
        Columns("text", "sft", {"text": "text"}, forms.text_of_dialogue, _TALK),
    )
}  # fmt: skip
"""The forms by name; found by the columns in this order, so the more specific ones come first."""
ALIASES: Mapping[str, str] = {
    "alpaca": "instruction",
    "chatml": "messages",
    "openai": "messages",
    "hh-rlhf": "pairs",
    "distilabel": "pairs",
    "kto": "unpaired",
}
"""Other names under which people look for a form."""
_GENERAL = ("pairs", "unpaired", "prompt-completion", "messages", "text")
"""The forms that a recipe's own names of columns fill."""


def find(
    name: str | None,
    columns: Collection[str],
    dataset: str,
    *,
    renamed: Mapping[ColumnRole, str] | None = None,
    wanted: Kind | None = None,
) -> Columns:
    """The form called ``name``, or the first that fits ``columns`` when the recipe names none.

    ``renamed`` are the recipe's own names of columns by their roles, ``wanted`` the kind of rows that the stages need:
    a form of that kind comes first. Raises UsageError that says which columns there are and how to name them.
    """
    if name is not None and (problem := name_problem(name)):
        raise UsageError(problem, hint="Name one of them as `mapping`, or leave the key out.")
    if lacking := [column for column in (renamed or {}).values() if column not in columns]:
        raise UsageError(
            f"{dataset} has no column {', '.join(lacking)}, which `columns` names; it has {', '.join(columns)}.",
            hint="Name the columns as the dataset does.",
        )
    known = [MAPPINGS[ALIASES.get(name, name)]] if name else list(MAPPINGS.values())
    known = [form for item in known if (form := _with_names(item, renamed or {}, named=name is not None))]
    fitting = [form for form in known if form.fits(columns)]
    if fitting:
        suited = [form.suited(wanted) for form in fitting]
        return next((form for form in suited if form.kind == wanted), suited[0])
    if name is not None and known:
        lacking = sorted(set(known[0].needs) - set(columns))
        raise UsageError(
            f"{dataset} has no column {', '.join(lacking)}, which the mapping {name!r} needs; "
            f"it has {', '.join(columns)}.",
            hint=f"Name another mapping, or leave the key out. {_how_to_name(columns, wanted)}",
        )
    raise _no_form(columns, dataset, renamed or {}, wanted)


def find_for(source: Source, columns: Collection[str], wanted: Kind | None) -> Columns:
    """:func:`find` for a source of a recipe, whose stages need rows of the kind ``wanted``."""
    return find(source.mapping, columns, source.name, renamed=source.columns, wanted=wanted)


_ADVICE = {
    "text without turns": "Write a question and its answer to columns prompt and completion; text alone has no answer"
    " to train on.",
    "missing key: prompt": "Name the column with the question: `columns: {prompt: NAME}`.",
    "does not end with an answer": "Remove what follows on the last answer.",
    "roles out of order": "A conversation is an optional system message, then user and assistant in turn.",
    "unknown role": "Write system, user, assistant or tool as the role of each message.",
    "the label is false": "Give rows whose label is true, or use dpo, which pairs them with others.",
    "answer to the same prompt": "DPO needs a good and a bad answer to the same prompt; for SFT on the good ones, set"
    " `data` of an sft stage to this dataset.",
    "no JSON": "Write the list as JSON, and not as Python prints it.",
    "wrong type: messages": "Write the list as JSON, and not as Python prints it.",
    "wrong type: conversations": "Write the list as JSON, and not as Python prints it.",
    "weight 0": "Remove the weight of the answers that are to be trained on.",
    "holds a": "Remove what is not text: hubkit trains on text alone.",
}


def advice(reason: str, form: Columns) -> str:
    """What to do when the first rows of a dataset cannot be read as ``form``, for this ``reason``."""
    found = next((action for words, action in _ADVICE.items() if words in reason), None)
    return found or f"The form {form.name} reads {', '.join(form.needs)}; fix the rows, or name another `mapping`."


def _with_names(form: Columns, renamed: Mapping[ColumnRole, str], *, named: bool) -> Columns | None:
    """``form`` with the recipe's own names of columns; None when it has no use for one of them."""
    if not renamed:
        return form
    if not renamed.keys() <= form.roles.keys() | form.optional.keys():
        return None
    if not named and form.name not in _GENERAL and not renamed.keys() <= _TALK.keys():
        return None
    if not named and form.unpaired and "label" not in renamed:
        return None
    names = {str(role): column for role, column in renamed.items()}
    roles = {role: names.get(role, column) for role, column in form.roles.items()}
    own = {role: (column,) for role, column in names.items() if role not in roles}
    return replace(form, roles=roles, optional={**form.optional, **own})


_HOPELESS = (
    ({"prompt", "completions", "labels"}, "its rows are stepwise supervision, for a reward model",
     "Give each answer as a whole, in the columns prompt and completion."),
    ({"input_ids"}, "it is tokenized already, for some other model",
     "Give the conversations themselves: hubkit tokenizes them with the base's own tokenizer."),
    ({"response_0", "response_1"}, "its answers are in columns whose order says nothing",
     "Write the better answer to a column chosen and the other to a column rejected."),
)  # fmt: skip


def _no_form(
    columns: Collection[str], dataset: str, renamed: Mapping[ColumnRole, str], wanted: Kind | None
) -> UsageError:
    listed = ", ".join(columns) or "none"
    if renamed:
        roles = ", ".join(sorted(renamed))
        return UsageError(
            f"`columns` of {dataset} names {roles}, which makes no form of rows; its columns are {listed}.",
            hint="Name messages; or prompt and completion; or chosen and rejected, and prompt where there is one.",
        )
    for there, reason, action in _HOPELESS:
        if there <= set(columns):
            return UsageError(f"No mapping fits the columns of {dataset}: {listed}: {reason}.", hint=action)
    if set(columns) & {"prompt", "instruction", "question"} and len(columns) == 1:
        return UsageError(
            f"No mapping fits the columns of {dataset}: {listed}: its rows have prompts without answers.",
            hint="Add the answers in a column completion.",
        )
    close = difflib.SequenceMatcher

    def distance(form: Columns) -> tuple[float, bool, float]:
        there = sum(column in columns for column in form.needs) / len(form.needs)
        alike = max((close(None, a, b).ratio() for a in form.needs for b in columns), default=0.0)
        return -there, form.name not in _GENERAL, -alike

    kinds = [form for form in MAPPINGS.values() if wanted is None or form.suited(wanted).kind == wanted]
    closest = "; ".join(f"{form.name} ({', '.join(form.needs)})" for form in sorted(kinds, key=distance)[:3])
    return UsageError(
        f"No mapping fits the columns of {dataset}: {listed}. Closest: {closest}.", hint=_how_to_name(columns, wanted)
    )


_LIKELY: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query", "instruction", "input", "user", "problem", "ask", "context", "request"),
    "chosen": ("chosen", "good", "better", "preferred", "accepted", "win", "positive", "best"),
    "rejected": ("rejected", "bad", "worse", "dispreferred", "lose", "negative", "worst"),
    "completion": ("completion", "answer", "response", "output", "reply", "assistant", "target", "solution", "text"),
}
"""Words that the name of a column of each role often has."""


def _how_to_name(columns: Collection[str], wanted: Kind | None) -> str:
    """How to write ``columns:`` for these, with names where they can be guessed."""
    roles = ("prompt", "chosen", "rejected") if wanted == "preference" else ("prompt", "completion")
    guessed: dict[str, str] = {}
    for role in roles:
        free = [name for name in columns if name not in guessed.values()]
        likely = (name for word in _LIKELY[role] for name in free if word in name.lower())
        guessed[role] = next(likely, "NAME")
    return f"Name them: `columns: {{{', '.join(f'{role}: {name}' for role, name in guessed.items())}}}`."


def name_problem(name: str) -> str | None:
    """Why ``name`` is no mapping, or None when it is."""
    known = {**MAPPINGS, **{alias: MAPPINGS[form] for alias, form in ALIASES.items()}}
    if name in known:
        return None
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    return f"There is no mapping {name!r}{meant} Known: {', '.join(MAPPINGS)}."


def form_called(name: str) -> Columns:
    """The form of a mapping's name, which must be one (:func:`name_problem`)."""
    return MAPPINGS[ALIASES.get(name, name)]


def must_train(stage: str, method: str, name: str, kinds: Collection[Kind]) -> None:
    """UsageError when the set ``name``, whose rows are of ``kinds``, cannot be trained by ``method``."""
    wanted = METHOD_KINDS.get(method)
    if wanted is None or set(kinds) == {wanted}:
        return
    there = " and ".join(sorted(kinds))
    hint = "Set another `data` for the stage, or another `mapping` for the dataset."
    if wanted == "sft" and set(kinds) == {"preference"}:
        hint = (
            "Set another `data` for the stage; or train on the chosen answers: `columns: {messages: chosen}`, "
            "or `columns: {prompt: prompt, completion: chosen}` where they are text."
        )
    raise UsageError(
        f"Stage {stage!r} uses {method} and needs {wanted} rows, but dataset {name!r} has {there} rows.", hint=hint
    )
