"""From a dataset's columns to conversations.

A preference row becomes ``{"prompt": [...], "chosen": [{assistant}], "rejected": [{assistant}]}``, an SFT row
``{"prompt": [...], "completion": [{assistant}]}``: lists of ``{"role", "content"}``. So the trainers put the loss on
the answer alone, with its end-of-turn token. Of a conversation with several turns the last answer is the one that is
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hubkit.core.errors import UsageError

Message = dict[str, str]
Row = dict[str, list[Message]]
Kind = Literal["preference", "sft"]

_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class BadRow(ValueError):
    """A row that cannot be trained on; the text is the reason under which it is counted."""


@dataclass(frozen=True)
class Columns:
    """One mapping: its name, what it makes, the columns that it needs, and how."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Row]

    def fits(self, columns: Collection[str]) -> bool:
        """Whether a set with these columns can be read so."""
        return set(self.needs) <= set(columns)


def text(row: Mapping[str, Any], key: str, *, optional: bool = False) -> str:
    """The text in the column ``key``. BadRow when it is missing, null, of another type, empty or not text."""
    if key not in row:
        if optional:
            return ""
        raise BadRow(f"missing key: {key}")
    value = row[key]
    if value is None:
        if optional:
            return ""
        raise BadRow(f"null: {key}")
    return plain(value, key, optional=optional)


def plain(value: Any, key: str, *, optional: bool = False) -> str:
    """``value`` as text that can be encoded. BadRow otherwise."""
    if not isinstance(value, str):
        raise BadRow(f"wrong type: {key}")
    if not value.strip() and not optional:
        raise BadRow(f"empty: {key}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"not UTF-8: {key}") from error
    if "\ufffd" in value or "\0" in value:
        raise BadRow(f"not UTF-8: {key}")
    return value


def messages(value: Any, key: str) -> list[Message]:
    """A list of messages (``role``/``content`` or ``from``/``value``) in our form. BadRow when it is not one."""
    if value is None:
        raise BadRow(f"null: {key}")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"wrong type: {key}")
    if not value:
        raise BadRow(f"empty: {key}")
    found = []
    for item in value:
        role = _ROLES.get(str(item.get("role", item.get("from"))))
        if role is None:
            raise BadRow(f"unknown role: {key}")
        content = item.get("content", item.get("value"))
        if content is None:
            raise BadRow(f"null: {key}")
        found.append({"role": role, "content": plain(content, key, optional=role == "system")})
    found = [item for item in found if item["role"] != "system" or item["content"].strip()]
    turns = [item["role"] for item in found if item["role"] != "system"]
    if "system" in [item["role"] for item in found[1:]] or any(
        role != ("user", "assistant")[number % 2] for number, role in enumerate(turns)
    ):
        raise BadRow(f"roles out of order: {key}")
    return found


def _asked(system: str, user: str) -> list[Message]:
    before = [{"role": "system", "content": system}] if system.strip() else []
    return [*before, {"role": "user", "content": user}]


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _pair(prompt: list[Message], chosen: str, rejected: str) -> Row:
    if chosen.strip() == rejected.strip():
        raise BadRow("chosen equals rejected")
    return {"prompt": prompt, "chosen": _answer(chosen), "rejected": _answer(rejected)}


def _orca(row: Mapping[str, Any]) -> Row:
    prompt = _asked(text(row, "system", optional=True), text(row, "question"))
    return _pair(prompt, text(row, "chosen"), text(row, "rejected"))


def _ultrafeedback(row: Mapping[str, Any]) -> Row:
    prompt = _asked(text(row, "system", optional=True), text(row, "instruction"))
    return _pair(prompt, text(row, "chosen_response"), text(row, "rejected_response"))


def _pair_of_messages(row: Mapping[str, Any]) -> Row:
    for key in ("chosen", "rejected"):
        if key not in row:
            raise BadRow(f"missing key: {key}")
    chosen, rejected = messages(row["chosen"], "chosen"), messages(row["rejected"], "rejected")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise BadRow("does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected answer different prompts")
    prompt = chosen[:-1] or _asked("", text(row, "prompt"))
    return _pair(prompt, chosen[-1]["content"], rejected[-1]["content"])


def _instruction(row: Mapping[str, Any]) -> Row:
    given = text(row, "input", optional=True)
    asked = text(row, "instruction")
    user = f"{asked}\n{given}" if given.strip() else asked
    return {
        "prompt": _asked(text(row, "system", optional=True), user),
        "completion": _answer(text(row, "output")),
    }


def _conversation(key: str) -> Callable[[Mapping[str, Any]], Row]:
    def convert(row: Mapping[str, Any]) -> Row:
        if key not in row:
            raise BadRow(f"missing key: {key}")
        conversation = messages(row[key], key)
        if conversation[-1]["role"] != "assistant":
            raise BadRow("does not end with an answer")
        if len(conversation) < 2 or conversation[-2]["role"] != "user":
            raise BadRow("has no question")
        return {"prompt": conversation[:-1], "completion": conversation[-1:]}

    return convert


MAPPINGS: Mapping[str, Columns] = {
    item.name: item
    for item in (
        Columns("ultrafeedback", "preference", ("instruction", "chosen_response", "rejected_response"), _ultrafeedback),
        Columns("orca", "preference", ("question", "chosen", "rejected"), _orca),
        Columns("pairs", "preference", ("chosen", "rejected"), _pair_of_messages),
        Columns("instruction", "sft", ("instruction", "output"), _instruction),
        Columns("messages", "sft", ("messages",), _conversation("messages")),
        Columns("sharegpt", "sft", ("conversations",), _conversation("conversations")),
    )
}
"""The mappings by name; found by the columns in this order, so the more specific ones come first."""


def find(name: str | None, columns: Collection[str], repo: str) -> Columns:
    """The mapping called ``name``, or the first that fits ``columns`` when the recipe names none.

    Raises UsageError that lists what is known and what the set has.
    """
    if name is not None:
        if problem := name_problem(name):
            raise UsageError(problem, hint="Name one of them as `mapping`, or leave the key out.")
        chosen = MAPPINGS[name]
        if not chosen.fits(columns):
            lacking = ", ".join(sorted(set(chosen.needs) - set(columns)))
            raise UsageError(
                f"{repo} has no column {lacking}, which the mapping {name!r} needs; it has {', '.join(columns)}.",
                hint="Name another mapping, or leave the key out.",
            )
        return chosen
    for mapping in MAPPINGS.values():
        if mapping.fits(columns):
            return mapping
    raise UsageError(
        f"No mapping fits the columns of {repo}: {', '.join(columns)}.",
        hint="Known: " + "; ".join(f"{item.name} ({', '.join(item.needs)})" for item in MAPPINGS.values()) + ".",
    )


def name_problem(name: str) -> str | None:
    """Why ``name`` is no mapping, or None when it is."""
    import difflib

    if name in MAPPINGS:
        return None
    close = difflib.get_close_matches(name, MAPPINGS, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    return f"There is no mapping {name!r}{meant} Known: {', '.join(MAPPINGS)}."


def must_train(stage: str, method: str, name: str, kinds: set[Kind]) -> None:
    """UsageError when the set ``name``, whose rows are of ``kinds``, cannot be trained by ``method``."""
    wanted = {"dpo": "preference", "sft": "sft"}.get(method)
    if wanted is not None and kinds != {wanted}:
        there = " and ".join(sorted(kinds))
        raise UsageError(
            f"Stage {stage!r} uses {method} and needs {wanted} rows, but dataset {name!r} has {there} rows.",
            hint="Set another `data` for the stage, or another `mapping` for the dataset.",
        )
