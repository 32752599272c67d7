"""A chat template as plain turns: what is before and after each message, found in its renderings and proved on them.

Programs that have another template language than Jinja get their template from these parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hubkit.models.chat.golden import GOLDEN
from hubkit.models.chat.rendering import Message, render_untrusted

_USER, _ANSWER, _SECOND, _SYSTEM = (f"Qzx7 {name} 7xzQ" for name in ("question", "answer", "second", "system"))
_LEFT_OUT = "empty system message"
"""The golden conversation that is not compared: other programs leave an empty system message out."""


@dataclass(frozen=True)
class Turns:
    """What is ``before`` and ``after`` the content of a message, by role; a role that is refused has no entry.

    ``start`` is before the first turn, ``opening`` is where an answer begins. ``default_system`` is the system message
    of a conversation that has none.
    """

    start: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    opening: str
    default_system: str = ""

    def render(self, messages: Sequence[Message], *, prompt: bool) -> str | None:
        """``messages`` as the template writes them, with ``prompt`` up to where an answer begins; None: refused."""
        if self.default_system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        if any(item["role"] not in self.before for item in messages):
            return None
        turns = "".join(self.before[item["role"]] + item["content"] + self.after[item["role"]] for item in messages)
        return self.start + turns + (self.opening if prompt else "")


def turns_of(template: str, special: Mapping[str, str]) -> Turns | None:
    """The turns that ``template`` writes; None when it writes more than turns, as its renderings show.

    ``special`` are the special tokens by the names that a template may use. RefusedError when it passes its limits.
    """
    user, answer, second, system = (
        {"role": role, "content": text}
        for role, text in (("user", _USER), ("assistant", _ANSWER), ("user", _SECOND), ("system", _SYSTEM))
    )
    cases: list[tuple[Sequence[Message], bool]] = [
        ((user, answer, second), False),
        ((user,), False),
        ((user,), True),
        ((system, user), False),
    ]
    golden = [(item, prompt) for name, item in GOLDEN.items() if name != _LEFT_OUT for prompt in (False, True)]
    compared = [(item[:-1] if prompt else item, prompt) for item, prompt in golden]
    texts = [found.text for found in render_untrusted(template, [*cases, *compared], variables=special)]
    whole, alone, prompt_text, guided = texts[:4]
    if whole is None or alone is None or prompt_text is None or not prompt_text.startswith(alone):
        return None
    try:
        first, rest = whole.split(_USER)
        before_answer, rest = rest.split(_ANSWER)
        between, after_user = rest.split(_SECOND)
    except ValueError:
        return None
    parts = (first, before_answer, between, after_user, prompt_text.removeprefix(alone), guided)
    for length in range(_common_end(first, between), -1, -1):
        found = _cut(parts, length, special.get("bos_token", ""))
        if found and all(
            found.render(messages, prompt=prompt) == text
            for (messages, prompt), text in zip(compared, texts[4:], strict=True)
        ):
            return found
    return None


def _common_end(one: str, two: str) -> int:
    length = 0
    while length < min(len(one), len(two)) and one[-1 - length] == two[-1 - length]:
        length += 1
    return length


def _cut(parts: tuple[str, str, str, str, str, str | None], length: int, bos: str) -> Turns | None:
    """The turns if the user's begins with the last ``length`` letters before it; None when the parts do not fit."""
    first, before_answer, between, after_user, opening, guided = parts
    cut = len(first) - length
    lead, before_user, after_answer = first[:cut], first[cut:], between[: len(between) - length]
    if not before_answer.startswith(after_user):
        return None
    before = {"user": before_user, "assistant": before_answer.removeprefix(after_user)}
    after = {"user": after_user, "assistant": after_answer}
    if guided is None or _SYSTEM not in guided:
        return Turns(lead, before, after, opening)
    head, rest = guided.split(_SYSTEM, 1)
    end = before_user + _USER + after_user
    if not rest.endswith(end):
        return None
    start = bos if bos and head.startswith(bos) and not before_user.startswith(bos) else ""
    before["system"], after["system"] = head.removeprefix(start), rest.removesuffix(end)
    said = lead.removeprefix(head) if lead.startswith(head) else ""
    default = said.removesuffix(after["system"]) if said and said.endswith(after["system"]) else ""
    return Turns(start, before, after, opening, default) if default or lead == start else None
