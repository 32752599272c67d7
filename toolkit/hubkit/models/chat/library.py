"""The chat formats that a recipe may name, each a Jinja file in ``templates/``, and where a release's template is from.

Each format has two files: ``templates/NAME.jinja`` is what is shipped, ``templates/training/NAME.jinja`` the same with
``{% generation %}`` around what is trained: an answer and its end-of-turn token. Trainers read that mark; many programs
that load a published model stop at it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.findings import Finding
from hubkit.models.chat import sandbox
from hubkit.models.chat.rules import TEMPLATE_CHOICE, UNKNOWN_TOKENS

_FOLDER = Path(__file__).parent / "templates"
_MARK = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


@dataclass(frozen=True)
class Format:
    """A chat format: what it is known as, the control tokens that it writes (beside bos and eos), its source."""

    says: str
    tokens: tuple[str, ...]
    source: str


FORMATS: Mapping[str, Format] = {
    "chatml": Format("ChatML", ("<|im_start|>", "<|im_end|>"), "OpenAI, chatml.md (2023)"),
    "llama-3": Format(
        "Llama 3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "Meta, Llama 3 model cards and prompt formats",
    ),
    "llama-2": Format("Llama 2", (), "Meta, Llama 2 model cards and prompt formats"),
    "mistral": Format(
        "Mistral instruct, versions 0.1 and 0.2", (), "Mistral AI, guardrailing; a system message opens the first turn"
    ),
    "zephyr": Format("Zephyr", (), "card of HuggingFaceH4/zephyr-7b-beta"),
    "gemma": Format(
        "Gemma", ("<start_of_turn>", "<end_of_turn>"), "Google, Gemma formatting; a system message opens the first turn"
    ),
    "phi-3": Format("Phi-3", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "card of Phi-3-mini-4k-instruct"),
    "alpaca": Format("Alpaca", (), "Stanford Alpaca, README; a system message takes the place of its preamble"),
    "completion": Format(
        "Plain text without roles, for a base that is no chat model", (), "each text on a line; EOS ends an answer"
    ),
    "vicuna": Format("Vicuna 1.1", (), "FastChat, vicuna_weights_version.md; a system message replaces its preamble"),
}
"""The library, by the name that ``chat.template`` takes."""


@cache
def shipped(name: str) -> str:
    """The Jinja text of the format ``name`` as it is published. KeyError when there is no such format."""
    return _read(FORMATS, name, _FOLDER)


@cache
def training(name: str) -> str:
    """The Jinja text of the format ``name``, with TRL's ``{% generation %}`` around what is trained."""
    return _read(FORMATS, name, _FOLDER / "training")


def _read(known: Mapping[str, Format], name: str, folder: Path) -> str:
    known[name]
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ChatTemplateChoice:
    """The template of a release: ``shipped`` is published, ``training`` is the same with the marks for trainers."""

    shipped: str
    training: str
    findings: tuple[Finding, ...] = ()


def names_file(setting: str) -> bool:
    """Whether ``chat.template: setting`` names a file beside the recipe."""
    return setting != "base" and setting not in FORMATS


def setting_problem(setting: str, folder: Path) -> str | None:
    """Why ``chat.template: setting`` names no template; None when it does. Files are looked for in ``folder``."""
    if setting == "base" or setting in FORMATS or (folder / setting).is_file():
        return None
    close = difflib.get_close_matches(setting, ["base", *FORMATS], n=1, cutoff=0.6)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"there is no format {setting!r} and no such file next to the recipe{meant}"


def choices() -> str:
    """What ``chat.template`` takes, for people."""
    return f"Set it to 'base', a Jinja file next to the recipe, or one of {', '.join(FORMATS)}."


def choose(setting: str, tokenizer: Any, folder: Path) -> ChatTemplateChoice:
    """The template that the recipe's ``chat.template`` names.

    ``setting`` is 'base' (the one of ``tokenizer``, a transformers tokenizer), a name of :data:`FORMATS`, or a file in
    ``folder``. Raises UsageError when there is no such thing, RefusedError when the base has no template or it is not
    Jinja. Nothing is rendered here.
    """
    if setting in FORMATS:
        known = tokenizer.get_vocab()
        lacks = [token for token in FORMATS[setting].tokens if token not in known]
        return ChatTemplateChoice(shipped(setting), training(setting), tuple(_lacking(setting, lacks)))
    if setting == "base":
        text, findings = _own(tokenizer)
    else:
        text, findings = _from_file(setting, folder), ()
    from jinja2 import TemplateError

    try:
        sandbox.environment().parse(text)
    except (TemplateError, RecursionError) as error:
        raise RefusedError(f"The chat template {setting!r} is not valid Jinja: {error}.") from error
    return ChatTemplateChoice(unmarked(text), text, findings)


def _lacking(name: str, tokens: list[str]) -> Iterable[Finding]:
    if tokens:
        yield UNKNOWN_TOKENS.finding(
            f"The base's tokenizer has no token {', '.join(tokens)}, which the format {name!r} writes: "
            "the model reads it as ordinary text, split into several tokens.",
            "Choose a format whose tokens are in the base's vocabulary.",
        )


def _own(tokenizer: Any) -> tuple[str, tuple[Finding, ...]]:
    found = tokenizer.chat_template
    text = found.get("default") if isinstance(found, dict) else found
    if not text:
        raise RefusedError(
            "The base model has no chat template.",
            hint=f"Set chat.template in the recipe. {choices()}",
        )
    others = sorted(set(found) - {"default"}) if isinstance(found, dict) else []
    note = f"The base has more chat templates ({', '.join(others)}); only its default one is trained and published."
    return str(text), (TEMPLATE_CHOICE.finding(note),) if others else ()


def _from_file(name: str, folder: Path) -> str:
    if problem := setting_problem(name, folder):
        raise UsageError(f"chat.template: {problem}.", hint=choices())
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the chat template {folder / name}: {error}.", hint=choices()) from error


def unmarked(template: str) -> str:
    """``template`` without TRL's ``{% generation %}``, for publishing; the same text when it has none.

    Each mark becomes a comment with the same signs for white space, which Jinja trims as it trims a block, so the
    rendering stays what it was; callers prove that on the golden conversations.
    """
    return _MARK.sub(lambda mark: f"{{#{mark[1]} {'end of ' if mark[2] else ''}answer {mark[3]}#}}", template)


CHATML = shipped("chatml")
"""ChatML, as it is published. It needs the tokens <|im_start|> and <|im_end|>."""
