"""Render chat templates in Jinja's immutable sandbox; a stranger's in a child process with limits.

Imports nothing of hubkit: :func:`hubkit.core.processes.parent.run_job` runs this file by its path. The names that a
template may use are those that transformers gives it (``render_jinja_template``): ``raise_exception``,
``strftime_now``, ``tojson``, loop controls and the ``generation`` block.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}`` marks what is trained; for rendering it is its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain attribute

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def environment() -> ImmutableSandboxedEnvironment:
    """A sandbox that renders chat templates as transformers does."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def render_all(template: str, variables: Mapping[str, Any], requests: list[Any]) -> list[dict[str, str]]:
    """``{"text"}`` or ``{"error"}`` for each request ``{"messages", "add_generation_prompt"}``."""
    try:
        compiled = environment().from_string(template)
    except Exception as error:  # of Python's own compiler too, which sees `break` outside of a loop
        return [{"error": _error_text(error)} for _ in requests]
    found = []
    for request in requests:
        try:
            found.append({"text": compiled.render(**{"tools": None, "documents": None, **variables, **request})})
        except Exception as error:  # a template can raise anything; it is reported, never hidden
            found.append({"error": _error_text(error)})
    return found


def _error_text(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]


def answer(job: dict[str, Any]) -> list[dict[str, str]]:
    """:func:`render_all` of a job ``{"template", "variables", "requests"}``, in a process with limited memory."""
    try:
        return render_all(job["template"], job["variables"], job["requests"])
    except MemoryError:
        return [{"error": "out of memory"}] * len(job["requests"])
