"""Do the tokenizer, the chat template, config.json and generation_config.json agree on where an answer ends?

Each of them can set it. A model whose four disagree does not stop, or stops only in some programs. One function,
:func:`agree`, checks them: for the base before training, for the merged model before it is published, and for anybody's
model in ``hubkit check``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.chat import eos, padding
from hubkit.models.chat.closing import TWO_TURNS, find_closing
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.golden import golden_findings, golden_requests
from hubkit.models.chat.rendering import Message, Rendering, render_untrusted
from hubkit.models.chat.rules import (
    EOS_CONFIG,
    EOS_GENERATION,
    EOS_PADDING,
    EOS_TOKENIZER,
    TEMPLATE_DATE,
    TEMPLATE_FAILS,
    TEMPLATE_PARTS,
    VOCABULARY,
)


@dataclass(frozen=True)
class Tokens:
    """What of a tokenizer a template meets.

    ``special`` are the special tokens by the name that a template may use (``bos_token`` ...), ``added`` the ids of
    all added tokens by their text, ``count`` the highest id plus one (None: not known). ``encode`` gives the ids of a
    text without adding any; without it, the ids that follow an end-of-turn token stay unknown.
    """

    special: Mapping[str, str]
    added: Mapping[str, int]
    count: int | None = None
    encode: Callable[[str], Sequence[int]] | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Tokens:
        """Those of ``tokenizer``, of transformers."""
        special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        return cls(
            special,
            tokenizer.added_tokens_encoder,
            len(tokenizer),
            lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        )


@dataclass(frozen=True)
class Agreement:
    """What was found: in the ``template`` by itself, and between the ``files``.

    ``end_of_turn`` is None without one; ``pad`` is the token to pad with, None without an end-of-turn token.
    """

    end_of_turn: EndOfTurn | None
    template: tuple[Finding, ...]
    files: tuple[Finding, ...]
    pad: padding.Padding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, the template's first."""
        return self.template + self.files


def refuse(findings: Sequence[Finding], what: str = "") -> None:
    """RefusedError with the first error of ``findings``, ``what`` before it; nothing when there is none."""
    for finding in findings:
        if finding.level == "error":
            raise RefusedError(f"{what}{finding.message}", hint=finding.hint or _FIX)


_FIX = "Fix the template, or set chat.template in the recipe to another one."


def agree(
    template: str,
    tokens: Tokens,
    config: Mapping[str, Any] | None,
    generation: Mapping[str, Any] | None,
    *,
    published: bool = False,
) -> Agreement:
    """Render the probe and the golden conversations under limits, find the end-of-turn token, and check that the files
    agree with it.

    ``config`` and ``generation`` are config.json and generation_config.json; without a ``config`` (an adapter's repo)
    the files are compared with nothing. ``published``: the files are anybody's, as they are used. Then a template that
    takes content as a list of parts is rendered with such a list, and the end-of-turn token may be a later one than
    the first (:mod:`closing`). Raises nothing: a template that passes its limits is an error among the findings.
    """
    found: list[Finding] = list(_about(template))
    try:
        probe, two_turns, *golden = _rendered(template, tokens.special, found, parts=published)
        if probe.text is None:
            raise RefusedError(
                f"The chat template cannot render a user and an assistant message: {probe.problem}.", hint=_FIX
            )
        found += golden_findings(golden)
        if published:
            stops = eos_ids(generation) or eos_ids(config)
            end = find_closing(probe.text, two_turns.text, tokens.added, stops)
        else:
            end = eos.find_in_text(probe.text, tokens.added, tokens.encode)
    except RefusedError as error:
        return Agreement(None, (*found, TEMPLATE_FAILS.finding(error.message, error.hint)), ())
    ends = ends_of(tokens, config, generation)
    pad = padding.choose(tokens.special, tokens.added, end, prompt=probe.text, rows=ends.vocabulary)
    between = disagreements(end, ends, only_pad=pad.id == end.id) if config else []
    return Agreement(end, tuple(found), tuple(between), pad)


def _rendered(template: str, special: Mapping[str, str], found: list[Finding], *, parts: bool) -> Sequence[Rendering]:
    """The probe, two turns of it, and the golden conversations, rendered. With ``parts``, where a template loses or
    refuses a content that is a string, as a list of parts, as those of vision-language models take it."""
    requests = [(eos.PROBE, False), (TWO_TURNS, False), *golden_requests()]
    renderings = render_untrusted(template, requests, variables=special)
    if not parts or eos.SENTINEL in (renderings[0].text or ""):
        return renderings
    in_parts = render_untrusted(
        template, [(_in_parts(messages), opened) for messages, opened in requests], variables=special
    )
    if eos.SENTINEL not in (in_parts[0].text or ""):
        return renderings
    found.append(
        TEMPLATE_PARTS.finding(
            "The chat template takes content only as a list of parts, not as a string.",
            'Send [{"type": "text", "text": "..."}], or add a branch for strings to the template.',
        )
    )
    return in_parts


def _in_parts(messages: Sequence[Message]) -> list[Message]:
    return [{**item, "content": [{"type": "text", "text": item["content"]}]} for item in messages]


def _about(template: str) -> Iterator[Finding]:
    if "strftime_now" in template:
        yield TEMPLATE_DATE.finding("The chat template inserts today's date, so prompts differ from those in training.")


@dataclass(frozen=True)
class Ends:
    """What each file says about the end of an answer. Ids; empty or None where a file says nothing.

    ``vocabulary`` is the number of rows of the embedding (``config.vocab_size``), ``tokens`` the highest id of the
    tokenizer plus one.
    """

    tokenizer_eos: int | None
    pad: int | None
    config_eos: tuple[int, ...]
    generation_eos: tuple[int, ...]
    vocabulary: int | None = None
    tokens: int | None = None


def ends_of(tokens: Tokens, config: Mapping[str, Any] | None, generation: Mapping[str, Any] | None) -> Ends:
    """What ``tokens`` and the two config files (as mappings) say about the end of an answer."""
    size = setting(config, "vocab_size")

    def numbered(name: str) -> int | None:
        word = tokens.special.get(name)
        if word is None:
            return None
        if word not in tokens.added and tokens.encode is not None:
            ids = list(tokens.encode(word))
            return ids[0] if len(ids) == 1 else None
        return tokens.added.get(word)

    return Ends(
        tokenizer_eos=numbered("eos_token"),
        pad=numbered("pad_token"),
        config_eos=eos_ids(config),
        generation_eos=eos_ids(generation),
        vocabulary=size if isinstance(size, int) else None,
        tokens=tokens.count,
    )


def text_part(config: Mapping[str, Any]) -> str | None:
    """The key of ``config`` under which the text model's settings are; None when they are in ``config`` itself.

    As ``get_text_config`` of transformers looks for it: models of text and images have their settings there.
    """
    return next((name for name in _TEXT_PARTS if isinstance(config.get(name), Mapping)), None)


_TEXT_PARTS = ("text_config", "decoder", "generator", "text_encoder")


def setting(config: Mapping[str, Any] | None, name: str) -> Any:
    """The value of ``name`` in ``config``, or else in its :func:`text_part`; None when neither has it."""
    config = config or {}
    if config.get(name) is None and (part := text_part(config)):
        return config[part].get(name)
    return config.get(name)


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``config`` (config.json) as transformers reads it for text: a multimodal model has them in ``text_config``."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return config
    return {**config, **{key: value for key, value in text.items() if value is not None}}


def eos_ids(settings: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The ``eos_token_id`` of a config or generation config, as a tuple; it may be a number, a list or absent."""
    value = setting(settings, "eos_token_id")
    if isinstance(value, int):
        return (value,)
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, (list, tuple)) else ()


def disagreements(end_of_turn: EndOfTurn, ends: Ends, *, only_pad: bool = False) -> list[Finding]:
    """Where tokenizer, config and generation config disagree with the template's end-of-turn token.

    ``only_pad``: the tokenizer has no other token to pad with, so padding with it is no mistake.
    """
    named = f"{end_of_turn.token} ({end_of_turn.id})"
    found = []
    stops = ends.generation_eos or ends.config_eos
    if end_of_turn.id not in stops:
        where = "generation_config.json" if ends.generation_eos else "generation_config.json or config.json"
        found.append(
            EOS_GENERATION.finding(
                f"Answers end with {named}, but eos_token_id in {where} is {list(stops) or 'missing'}: "
                "generation does not stop at the end-of-turn token.",
                f"Add {end_of_turn.id} to eos_token_id in generation_config.json.",
            )
        )
    elif end_of_turn.id not in ends.config_eos:
        found.append(
            EOS_CONFIG.finding(
                f"eos_token_id in config.json is {list(ends.config_eos) or 'missing'}, without {named}: "
                "programs that read only config.json do not stop at the end-of-turn token.",
            )
        )
    if ends.pad is not None and ends.pad == end_of_turn.id:
        found.append(
            EOS_PADDING.finding(
                f"The padding token is the end-of-turn token, {named}: a trainer that masks padding never trains it.",
                "Train with a trainer that masks padding by its place, as TRL does."
                if only_pad
                else "Use another padding token, such as the unknown token or an unused one.",
                level="warning" if only_pad else None,
            )
        )
    if ends.tokenizer_eos is not None and ends.tokenizer_eos != end_of_turn.id:
        found.append(
            EOS_TOKENIZER.finding(
                f"The tokenizer's EOS token is {ends.tokenizer_eos}, not the end-of-turn token {named}: programs that "
                "stop at the tokenizer's EOS token alone do not stop there.",
            )
        )
    if ends.vocabulary is not None:
        largest = max(end_of_turn.id + 1, ends.tokens or 0)
        if largest > ends.vocabulary:
            found.append(
                VOCABULARY.finding(
                    f"The tokenizer has ids up to {largest - 1}, but the model has {ends.vocabulary} embeddings.",
                    "The tokenizer belongs to another model, or the embeddings were not resized.",
                )
            )
    return found


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a template may name (``bos_token`` ...), from ``tokenizer_config.json``."""
    found = {}
    for name, value in tokenizer_config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
