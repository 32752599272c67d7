"""Text of others on a terminal, in a pipe, in a file and in a log: shown, and never obeyed."""

import io
import json
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_words import ESCAPES, commands_in
from rich.text import Text

from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.core.output import Output, PlainStream, table
from hubkit.core.printable import LONGEST_LINE, escaped_json, printable, printable_lines

pytestmark = pytest.mark.fault("S13")


def steers(char: str) -> bool:
    """Whether ``char`` is of a kind that steers a terminal, breaks its lines, or hides."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and char not in "\n\t"


SHOWN_FORMATS = {*range(0x600, 0x606), 0x6DD, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Marks of Arabic and Kaithi numbers: format characters by name, which are drawn."""


def test_no_character_that_steers_is_shown() -> None:
    left = {
        place
        for place in range(sys.maxunicode + 1)
        if steers(chr(place)) and chr(place) in printable(f"a{chr(place)}b")
    }
    assert left == SHOWN_FORMATS


@pytest.mark.parametrize(
    "text", ["naïve", "日本語 テスト", "שָׁלוֹם", "a\u00a0b", "👩\u200d👧", "⚠\ufe0f", "tab\there", "e\u0301"]
)
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == printable_lines(text) == text


def test_a_flood_of_marks_and_a_long_line_are_cut() -> None:
    assert printable("e" + "\u0301" * 500) == "e" + "\u0301" * 4
    cut = printable("x" * 1_000_000)
    assert len(cut) < LONGEST_LINE + 50 and cut.endswith("(995,904 more characters)")
    assert printable_lines("\n".join(["x" * 10_000] * 2)).count("more characters") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::set-env name=X::y", ": :set-env name=X::y"),
        ("a\n  \t::add-mask::a", "a\n  \t: :add-mask::a"),
        ("a\r\n::stop-commands::x", "a\n: :stop-commands::x"),
        ("in a line ##[add-mask]a", "in a line # #[add-mask]a"),
        ("##vso[task.setvariable variable=a]b", "# #vso[task.setvariable variable=a]b"),
        ("std::vector, a::b", "std::vector, a::b"),
        ("## Heading [link]", "## Heading [link]"),
    ],
)
def test_no_line_is_a_command_to_a_ci_job(text: str, shown: str) -> None:
    assert printable_lines(text) == shown and not commands_in(shown)


def test_json_keeps_its_values_and_shows_nothing_raw() -> None:
    value = {word: [word] for word in [*ESCAPES, "##[add-mask]x", "é 日本 👧", "\ud800", "\U000e0041"]}
    document = escaped_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(document) == value
    assert "é 日本 👧" in document and not any(map(steers, document)) and not commands_in(document)


def every_way(output: Output) -> None:
    """Each word in all ways in which a command can print it."""
    for word in ESCAPES:
        output.say(word)
        output.warn(word)
        output.error(RefusedError(word, hint=word))
        output.result({"x": [word]}, word, Text(word, "bold"), table((word, f"{word}#"), [(word, word)], title=word))
        output.text(word)
        output.line({"line": word}, word)
        with output.steps([word]) as view:
            view.start(word)
            view.progress(word, word, 0.5)
            view.done(word, word, 1.0)
            view.failed(word)


@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
def test_in_a_pipe_nothing_steers(mode: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    every_way(Output(mode, out, err))  # type: ignore[arg-type]
    for text in (out.getvalue(), err.getvalue()):
        assert not any(map(steers, text)) and not commands_in(text)


STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[(?:\?25[lh]|2K|1A)|\r")
"""What rich itself writes: colors, and what a live view needs."""


@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
def test_on_a_terminal_only_our_own_styling_steers(mode: str, on_terminal: Callable[..., str]) -> None:
    text = on_terminal(lambda: every_way(Output(mode)))  # type: ignore[arg-type]
    assert not any(map(steers, STYLE.sub("", text)))
    assert ("\x1b[" in text) or mode == "json", "it was a terminal"
    assert not set(re.findall(r"\x1b\[([0-9;]*)m", text)) & {"8", "5", "31;1;5"}, "a style of the strangers' own"


def test_a_finding_is_clean_wherever_it_is_told() -> None:
    word = "".join(ESCAPES)
    finding = Finding("error", word, word, file=word)
    assert not any(map(steers, finding.place))


def test_a_file_gets_a_document_as_it_is(tmp_path: Path) -> None:
    text = "::a\n\x1b[31mred\u202e ##[x]"
    with (tmp_path / "card.md").open("w", encoding="utf-8") as file:
        Output("human", file).text(text)
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == f"{text}\n"


def test_half_a_character_and_another_encoding_are_no_error(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w", encoding="ascii") as file:
        output = Output("human", file, file)
        output.text("\ud800 é")
        output.say("\ud800 é")
        output.result({}, "é")
    assert (tmp_path / "a").read_text(encoding="ascii") == "\\ud800 \\xe9\n\\ufffd \\xe9\n\\xe9\n"


def test_what_libraries_print_is_clean() -> None:
    out = io.StringIO()
    stream = PlainStream(out)
    handler = logging.StreamHandler(stream)
    for word in ESCAPES:
        handler.emit(logging.makeLogRecord({"msg": word}))
        print(word, file=stream)
    assert not any(map(steers, out.getvalue())) and not commands_in(out.getvalue())
    out.truncate(0)
    out.seek(0)
    print("\r 10%|#\r 20%|##", file=stream)
    assert out.getvalue() == "\n 10%|#\n 20%|##\n"


def test_an_entry_of_the_servers_log_is_one_entry(tmp_path: Path) -> None:
    from hubkit.server.__main__ import log_formatter

    record = logging.makeLogRecord({"msg": "GET %s", "args": ("/a\n2026-01-01 00:00:00 INFO root forged\x1b[2J",)})
    text = log_formatter().format(record)
    assert not any(map(steers, text)) and "\n  2026-01-01" in text


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """Run a function with standard output and error on a terminal of 60 columns; what was written there."""

    def run(function: Callable[[], None]) -> str:
        import fcntl
        import pty
        import struct
        import termios

        pid, terminal = pty.fork()
        if pid == 0:
            code = 1
            try:
                fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
                os.environ.update(TERM="xterm-256color", COLUMNS="60")
                for name in ("CI", "NO_COLOR"):
                    os.environ.pop(name, None)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
                function()
                sys.stdout.flush()
                sys.stderr.flush()
                code = 0
            finally:
                os._exit(code)
        written = b""
        while True:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            written += piece
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, written.decode("utf-8", "replace")
        return written.decode("utf-8")

    return run
