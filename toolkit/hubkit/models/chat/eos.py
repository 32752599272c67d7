"""The end-of-turn token: the token that closes an assistant turn.

It is read from a conversation that the tokenizer's own chat template rendered. It is often not
``tokenizer.eos_token``, and a model trained or stopped on the wrong one never ends its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError

SENTINEL = "Qzx7 unmistakable answer 7xzQ"
"""An assistant answer that no template contains and whose ends no template trims."""
PROBE: tuple[Mapping[str, str], ...] = (
    {"role": "user", "content": "Say something."},
    {"role": "assistant", "content": SENTINEL},
)
"""The conversation whose rendering shows the end-of-turn token; no system message, as some templates refuse one."""

_CLOSE_IT = "End assistant messages in the template with one token of the vocabulary, such as <|im_end|>."


@dataclass(frozen=True)
class EndOfTurn:
    """The token that closes an assistant turn.

    ``suffix_ids`` are the ids that the template writes after it (ChatML: the newline); a model is not asked
    to emit them.
    """

    token: str
    id: int
    suffix_ids: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """``{"token", "id", "suffix_ids"}``."""
        return {"token": self.token, "id": self.id, "suffix_ids": list(self.suffix_ids)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EndOfTurn:
        """The end-of-turn token that :meth:`to_json` wrote."""
        return cls(value["token"], value["id"], tuple(value.get("suffix_ids", ())))


def find(tokenizer: Any) -> EndOfTurn:
    """The end-of-turn token of ``tokenizer`` (of transformers), derived from its chat template.

    Raises RefusedError when there is no template, when it fails, or when it never closes the turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RefusedError(
            "The tokenizer has no chat template, so the end of an answer is undefined.",
            hint="Set chat.template in the recipe: a format such as chatml, or a Jinja file.",
        )
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template([dict(item) for item in PROBE], tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise RefusedError(
            f"The chat template cannot render a user and an assistant message: {error}.",
            hint="Fix the template, or set chat.template in the recipe to another one.",
        ) from error
    return find_in_text(
        rendered,
        tokenizer.added_tokens_encoder,
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


def find_in_text(
    rendered: str, added: Mapping[str, int], encode: Callable[[str], Sequence[int]] | None = None
) -> EndOfTurn:
    """The end-of-turn token in ``rendered``, which is ``PROBE`` as a template rendered it.

    ``added`` maps the tokenizer's added tokens (special or not) to their ids; ``encode`` gives the ids of a text
    without adding any (without ``encode``, the ids after the end-of-turn token stay unknown). Raises RefusedError when
    no such token follows the answer, or when the one that follows opens another turn.
    """
    _, found, after = rendered.rpartition(SENTINEL)
    if not found:
        raise RefusedError(
            "The chat template changes the assistant's answer.",
            hint="A template must write the content of every message unchanged.",
        )
    places = [(place, -len(token), token) for token in added if token.strip() and (place := after.find(token)) >= 0]
    if not places:
        shown = f"only {after!r} follows" if after else "nothing follows"
        raise RefusedError(
            f"The chat template never closes the assistant's turn: {shown} the answer, "
            "and that holds none of the tokenizer's added tokens.",
            hint=_CLOSE_IT,
        )
    place, _, token = min(places)
    following = after[place + len(token) :]
    if following[:1].isalpha():
        raise RefusedError(
            f"The chat template never closes the assistant's turn: {token!r} follows the answer, "
            f"but it opens another turn ({(token + following)[:40]!r}).",
            hint=_CLOSE_IT,
        )
    if encode is None:
        return EndOfTurn(token, added[token])
    ids = list(encode(after[place:]))
    if added[token] not in ids:
        raise RefusedError(
            f"The tokenizer knows {token!r} as {added[token]}, but encodes it differently.",
            hint="The tokenizer's files disagree with each other; copy them from the base model again.",
        )
    return EndOfTurn(token, added[token], tuple(ids[ids.index(added[token]) + 1 :]))
