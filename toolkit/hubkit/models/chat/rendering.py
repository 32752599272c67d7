"""Conversations rendered by a chat template: our own in this process, a stranger's in a child with limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import seconds, size
from hubkit.core.processes.parent import JobFailed, run_job
from hubkit.models.chat import sandbox

Message = Mapping[str, Any]
_PATIENCE = 60.0
"""Seconds of the clock for a child with a limit of CPU time. They tell a hang from a busy machine."""


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
    address space (where the system enforces RLIMIT_AS; macOS does not) and ``timeout`` seconds of CPU time. Raises
    RefusedError when it passes either limit.
    """
    requests = [_request(messages, prompt) for messages, prompt in conversations]
    job = {"template": template, "variables": dict(variables or {}), "requests": requests}
    try:
        answers = run_job(Path(sandbox.__file__), job, memory=memory, cpu_seconds=timeout, timeout=_PATIENCE)
    except JobFailed as error:
        raise RefusedError(
            f"The chat template could not be rendered within {seconds(timeout)} and {size(memory)}.",
            hint="Do not render this template without time and memory limits.",
        ) from error
    return [Rendering(answer.get("text"), answer.get("error")) for answer in answers]


def _request(messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
    return {"messages": [dict(item) for item in messages], "add_generation_prompt": add_generation_prompt}
