"""How a conversation becomes text: chat templates, conversations that try them, and whether all files agree.

The tokenizer, the template, the model's config and its generation config each have a say in where an answer ends.
A model whose four disagree does not stop, or stops only in some programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit import sandbox
from hubkit.errors import RefusedError, UsageError
from hubkit.run import Finding
from hubkit.turn_end import TurnEnd

Message = Mapping[str, str]

CHATML = (
    "{%- for message in messages -%}\n"
    "  {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "  {{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)
"""ChatML, the form of OpenAI's ``chatml.md`` (2023). It needs the tokens <|im_start|> and <|im_end|>."""

_QUESTION = {"role": "user", "content": "What is the capital of France?"}
_ANSWER = {"role": "assistant", "content": "Paris."}
GOLDEN: Mapping[str, tuple[Message, ...]] = {
    "one turn": (_QUESTION, _ANSWER),
    "system message": ({"role": "system", "content": "You answer in one word."}, _QUESTION, _ANSWER),
    "several turns": (
        _QUESTION,
        _ANSWER,
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ),
    "unicode": (
        {"role": "user", "content": "Écris « été » en grec : καλοκαίρι 🌞, et en arabe : صيف"},
        {"role": "assistant", "content": "καλοκαίρι 🌞 — 夏"},
    ),
    "control tokens as text": (
        {"role": "user", "content": "What do <|im_end|>, </s>, [/INST] and {{ braces }} mean?"},
        {"role": "assistant", "content": "They are {% raw %} markers: <|im_start|> <s>."},
    ),
    "markup and spaces": (
        {"role": "user", "content": "Keep this:\n\n    x < y && y > 'z'\n\tand \"that\"."},
        {"role": "assistant", "content": "```python\nif x < y:\n    pass\n```"},
    ),
}
"""Conversations that every template is tried with; each ends in an assistant's turn."""


def template_for(setting: str, tokenizer: Any, folder: Path) -> str:
    """The Jinja text that the recipe's ``chat.template`` names.

    ``setting`` is 'base' (the one of ``tokenizer``, a transformers tokenizer), 'chatml', or a file in ``folder``.
    Raises UsageError when the file is not there, RefusedError when there is no template or it is not Jinja.
    """
    if setting == "base":
        found = tokenizer.chat_template
        text = found.get("default") if isinstance(found, dict) else found
        if not text:
            raise RefusedError(
                "The base model has no chat template.",
                hint="Set chat.template in the recipe to 'chatml' or to a Jinja file.",
            )
    elif setting == "chatml":
        text = CHATML
    else:
        try:
            text = (folder / setting).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"Cannot read the chat template {folder / setting}: {error}.",
                hint="chat.template is 'base', 'chatml', or a Jinja file beside the recipe.",
            ) from error
    from jinja2 import TemplateError

    try:
        sandbox.environment().parse(text)
    except TemplateError as error:
        raise RefusedError(f"The chat template {setting!r} is not valid Jinja: {error}.") from error
    return str(text)


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a template may name (``bos_token`` ...), from ``tokenizer_config.json``."""
    found = {}
    for name, value in tokenizer_config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def render(
    template: str,
    messages: Sequence[Message],
    *,
    variables: Mapping[str, str] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """``messages`` as text, in this process: for templates of our own. ``variables`` are the special tokens.

    Raises RefusedError with the template's own complaint.
    """
    request = _request(messages, add_generation_prompt)
    answer = sandbox.render_all(template, variables or {}, [request])[0]
    if "error" in answer:
        raise RefusedError(f"The chat template cannot render this conversation: {answer['error']}.")
    return answer["text"]


@dataclass(frozen=True)
class Rendering:
    """What a template made of a conversation: the text, or the problem."""

    text: str | None
    problem: str | None


def render_untrusted(
    template: str,
    conversations: Iterable[tuple[Sequence[Message], bool]],
    *,
    variables: Mapping[str, str] | None = None,
    timeout: int = 5,
    memory: int = 512 * 1024 * 1024,
) -> list[Rendering]:
    """Each (messages, add_generation_prompt) as a stranger's template renders it.

    The template runs in the sandbox, in a child process with an empty environment, at most ``memory`` bytes of
    address space (where the system enforces RLIMIT_AS; macOS does not) and ``timeout`` seconds. Raises RefusedError
    when it passes either limit.
    """
    requests = [_request(messages, prompt) for messages, prompt in conversations]
    job = {"template": template, "variables": dict(variables or {}), "requests": requests}
    command = [sys.executable, "-I", "-X", "utf8", str(sandbox.__file__), str(memory), str(timeout)]
    try:
        child = subprocess.run(
            command, input=json.dumps(job).encode(), capture_output=True, timeout=timeout, env={}, check=False
        )
        answers = json.loads(child.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise RefusedError(
            f"The chat template could not be rendered within {timeout} s and {memory // 2**20:,} MiB.",
            hint="Do not load this model's template in a program that does not limit it.",
        ) from error
    return [Rendering(answer.get("text"), answer.get("error")) for answer in answers]


def _request(messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
    return {"messages": [dict(item) for item in messages], "add_generation_prompt": add_generation_prompt}


def golden_requests() -> list[tuple[Sequence[Message], bool]]:
    """What :func:`golden_findings` needs rendered: each golden conversation, and its prompt with the opening."""
    return [pair for said in GOLDEN.values() for pair in ((said, False), (said[:-1], True))]


def golden_findings(renderings: Sequence[Rendering]) -> list[Finding]:
    """What is wrong with a template, seen in its renderings of :func:`golden_requests`.

    A template must show every message in order, and the prompt with its opening must be the beginning of the whole
    conversation: training and generating else see different texts. A refused system message is only said.
    """
    found = []
    for (name, messages), whole, prompt in zip(GOLDEN.items(), renderings[::2], renderings[1::2], strict=True):
        if whole.text is None or prompt.text is None:
            said = f"The chat template refuses a conversation ({name}): {whole.problem or prompt.problem}."
            found.append(Finding("note" if name == "system message" else "error", said))
            continue
        place = 0
        for message in messages:
            place = whole.text.find(message["content"].strip(), place)
            if place < 0:
                said = f"The chat template loses or changes the {message['role']}'s text ({name})."
                found.append(Finding("warning" if message["role"] == "system" else "error", said))
                break
        if not whole.text.startswith(prompt.text.rstrip()):
            found.append(
                Finding(
                    "warning",
                    f"The prompt with its opening is not the beginning of the whole conversation ({name}).",
                    "A model trained on whole conversations then sees other text when it answers.",
                )
            )
    return found


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


def eos_ids(settings: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The ``eos_token_id`` of a config or generation config, as a tuple; it may be a number, a list or absent."""
    value = (settings or {}).get("eos_token_id")
    if isinstance(value, int):
        return (value,)
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, (list, tuple)) else ()


def disagreements(turn_end: TurnEnd, ends: Ends) -> list[Finding]:
    """Where tokenizer, config and generation config disagree with the template's turn end."""
    named = f"{turn_end.token} ({turn_end.id})"
    found = []
    stops = ends.generation_eos or ends.config_eos
    if turn_end.id not in stops:
        where = "generation_config.json" if ends.generation_eos else "generation_config.json or config.json"
        found.append(
            Finding(
                "error",
                f"Answers end with {named}, but eos_token_id in {where} is {list(stops) or 'missing'}: "
                "generation does not stop at the turn end.",
                f"Add {turn_end.id} to eos_token_id in generation_config.json.",
            )
        )
    elif turn_end.id not in ends.config_eos:
        found.append(
            Finding(
                "warning",
                f"eos_token_id in config.json is {list(ends.config_eos) or 'missing'}, without {named}: "
                "programs that read only config.json do not stop at the turn end.",
            )
        )
    if ends.pad is not None and ends.pad == turn_end.id:
        found.append(
            Finding(
                "error",
                f"The padding token is the turn end, {named}: a trainer that masks padding never trains it.",
                "Use another padding token, such as the unknown token or an unused one.",
            )
        )
    if ends.tokenizer_eos is not None and ends.tokenizer_eos != turn_end.id:
        found.append(
            Finding(
                "note",
                f"The tokenizer's eos token is {ends.tokenizer_eos}, not the turn end {named}: programs that stop at "
                "the tokenizer's eos token alone do not stop there.",
            )
        )
    if ends.vocabulary is not None:
        largest = max(turn_end.id + 1, ends.tokens or 0)
        if largest > ends.vocabulary:
            found.append(
                Finding(
                    "error",
                    f"The tokenizer makes ids up to {largest - 1}, but the model has {ends.vocabulary} embeddings.",
                    "The tokenizer is of another model, or the embeddings were not resized.",
                )
            )
    return found


def ends_of(tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> Ends:
    """What a transformers ``tokenizer`` and the two config files (as mappings) say about the end of an answer."""
    return Ends(
        tokenizer_eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        config_eos=eos_ids(config),
        generation_eos=eos_ids(generation),
        vocabulary=config.get("vocab_size"),
        tokens=len(tokenizer),
    )
