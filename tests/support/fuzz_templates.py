"""The fuzz target that renders chat templates."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

from fuzz_samples import Run, files
from fuzzing import ROOT


class TimeUp(BaseException):
    """A template took longer than a hundredth of what the sandbox's child may take."""


FORBIDDEN = (
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "import",
    "exec",
    "ctypes.",
    "shutil.",
    "pty.",
    "code.__new__",
    "glob.",
)
"""Events of Python's audit hooks that no template may cause."""


def chat_template(work: Path) -> Run:
    """In this process, each event that a template must not cause is an error; every 300th input in the real child."""
    import signal

    from hubkit.core.errors import HubkitError
    from hubkit.models.chat import sandbox
    from hubkit.models.chat.rendering import render_untrusted

    talk = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "Hé <b>"},
        {"role": "assistant", "content": "A"},
    ]  # fmt: skip
    requests = [
        {"messages": talk, "add_generation_prompt": False},
        {"messages": talk[:2], "add_generation_prompt": True},
    ]
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    caused: list[str] = []
    rendering = threading.local()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if getattr(rendering, "on", False) and event.startswith(FORBIDDEN):
            if event == "open" and str(args[0]).endswith(("<template>", ".py")):
                return  # Python shows a line of what it warns about, or of an exception that nobody can catch
            source = sys._getframe(1).f_code.co_filename
            if event != "open" and source.endswith(("jinja2/environment.py", "jinja2/debug.py")):
                return  # Jinja compiles and runs its own code
            caused.append(f"{event} {args!r:.200}")

    def up(number: int, frame: Any) -> None:
        raise TimeUp

    import unicodedata  # noqa: F401 - Python itself imports it for a name in a template that is not ASCII

    for used in (
        "{{ messages|tojson }}{{ strftime_now('%d') }}{{ lipsum() }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ []|xmlattr }}",
    ):
        sandbox.answer(
            {"template": used, "variables": variables, "requests": requests}
        )  # imported now, not while it counts
    sys.addaudithook(audit)
    signal.signal(signal.SIGVTALRM, up)
    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        template = content.decode("utf-8", "replace")
        if tried % 300 == 0:
            with contextlib.suppress(HubkitError):
                render_untrusted(template, [(talk, True)], variables=variables, timeout=2)
        caused.clear()
        # What would take the whole memory or time of the child in one step cannot be stopped in this process.
        if (
            any(word in template for word in ("**", "range", "center", "*", "ljust", "rjust", "zfill", "format", "%"))
            and tried % 300
        ):
            template = template.replace("9" * 4, "9").replace("**", "+").replace("*", "+")
        rendering.on = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        try:
            sandbox.answer({"template": template, "variables": variables, "requests": requests})
        except (TimeUp, MemoryError):
            pass
        finally:
            rendering.on = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        assert not caused, caused[:3]

    return run


def template_seeds() -> list[bytes]:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from hostile_words import PAYLOADS

    return [
        *files("toolkit/hubkit/models/chat/templates/*.jinja", "toolkit/hubkit/models/chat/templates/training/*.jinja"),
        *(payload.encode() for payload in PAYLOADS),
        b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
        b"{% for m in messages %}{{ m.items.__globals__ }}{{ (m|attr('__class__')) }}{% endfor %}",
        b"{{ lipsum.__globals__['os'].popen('id').read() }}{{ namespace(a=1).a }}{{ joiner()() }}",
        b"{{ '{0.__class__}'.format(messages) }}{{ strftime_now('%Y') }}{{ messages|map(attribute='content')|tojson }}",
        b"{% macro f(x) %}{{ f(x) or caller() }}{% endmacro %}{% call f(3) %}{{ x }}{% endcall %}",
        b"{% generation %}{{ raise_exception('no') }}{% endgeneration %}{% set ns = namespace() %}{% set ns.x = 1 %}",
    ]


JINJA_WORDS = (
    b"{{ ", b" }}", b"{% ", b" %}", b"{#", b"#}", b"{%- ", b"-%}", b"{% for m in messages %}", b"{% endfor %}",
    b"{% if ", b"{% endif %}",
    b"{% set x = ", b"__class__", b"__globals__", b"|attr('", b"')", b".format(", b"|map(attribute='", b"|tojson",
    b"|list", b"|join",
    b"messages", b"[0]", b"['content']", b".content", b"loop.index", b"namespace(", b"cycler", b"lipsum(", b"dict(",
    b"range(9)",
    b"raise_exception(", b"strftime_now('%Y')", b"{% macro f() %}", b"{% endmacro %}", b"{% include 'x' %}",
    b"{% import 'x' as y %}",
    b"{% extends 'x' %}", b"{% block b %}", b"{% endblock %}", b"{% generation %}", b"{% endgeneration %}", b"~",
    b"(", b")", b"|", b"'",
    b"|selectattr('role')", b"|groupby('role')", b"|batch(2)", b"|sort", b"|xmlattr", b"|urlize", b"|wordwrap(1)",
    b"|indent(", b"|default(",
)  # fmt: skip
