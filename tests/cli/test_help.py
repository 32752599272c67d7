"""Help, short helps, mistyped names; and every `hubkit ...` that a message, a page or a document quotes exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from commands import hubkit

from hubkit.cli import SECTIONS, cli

ROOT = Path(__file__).parents[2]
WIDTH = 80


def commands(
    group: click.Group, path: tuple[str, ...] = ("hubkit",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group below ``group``, with the words that call it."""
    context = click.Context(group, info_name=path[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(cli))


def test_the_table_has_the_commands_own_short_helps() -> None:
    for section in SECTIONS.values():
        for name, lazy in section.items():
            command = ALL["hubkit", name]
            assert (command.name, command.get_short_help_str(WIDTH)) == (name, lazy.help)


@pytest.mark.parametrize(
    "path", [("hubkit",), *(path for path, command in ALL.items() if isinstance(command, click.Group))]
)
def test_no_short_help_is_cut_or_wrapped(path: tuple[str, ...]) -> None:
    group = ALL.get(path, cli)
    context = click.Context(group, info_name=" ".join(path), terminal_width=WIDTH)
    _, _, listed = group.get_help(context).partition("ommands")
    names = group.list_commands(context) if isinstance(group, click.Group) else []
    assert names
    for name in names:
        (line,) = re.findall(rf"^  {re.escape(name)} +(\S.*)$", listed, re.MULTILINE)
        help_text = ALL[*path, name].help or ""
        assert line == help_text.partition("\n")[0], f"{name}: {line}"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["relaese"], "'release'"),
        (["revision"], "Did you mean 'revisions'?"),
        (["revisions", "lits"], "Did you mean 'list'?"),
        (["release", "--frsh"], "'--fresh'"),
        (["hub", "status", "--jsn"], "'--json'"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(tmp_path: Path, args: list[str], words: str) -> None:
    done = hubkit(*args, home=tmp_path / "home")
    assert done.returncode == 2 and words in done.stderr and "--help`" in done.stderr


# --- quoted commands

CODE = re.compile(r"`hubkit ([a-z][^`\n]*)")
QUOTED = re.compile(r"""(?:["'(]|: )hubkit ([a-z][^`"'\n]*)|^\s*(?:\$ )?hubkit ([a-z][^\n]*)""", re.MULTILINE)
"""Quoted in another way than as code: a command if its first word is one, else a sentence about hubkit."""


def documents() -> Iterator[Path]:
    """What people read: sources with their messages, templates, documents."""
    for folder, patterns in {
        "toolkit": ("*.py",),
        "stages": ("*.py", "*.yaml"),
        "spaces": ("*.py", "*.md"),
        "card_templates": ("*.jinja",),
        "docs": ("*.md",),
        ".": (),
    }.items():
        for pattern in patterns:
            yield from (ROOT / folder).rglob(pattern)
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"))


def quoted(text: str) -> Iterator[str]:
    """Every command line that ``text`` quotes, without "hubkit"."""
    yield from CODE.findall(text)
    for line in map("".join, QUOTED.findall(text)):
        if ("hubkit", line.split()[0]) in ALL:
            yield line


def problem(line: str) -> str | None:
    """Why ``hubkit line`` cannot be typed; None when it can."""
    path: tuple[str, ...] = ("hubkit",)
    words = line.split()
    while words and isinstance(ALL.get(path, cli), click.Group) and re.fullmatch(r"[a-z|\\]+", words[0]):
        names = words.pop(0).replace("\\", "").split("|")
        for name in names:
            if (*path, name) not in ALL:
                return f"there is no command {' '.join((*path, name))!r}"
        path = (*path, names[0])
        if len(names) > 1:
            return None
    command = ALL.get(path, cli)
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    given = {word.rstrip(".,;:)") for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", line)}
    missing = given - known - {"--help", "--version"}
    return f"{' '.join(path)!r} has no {', '.join(sorted(missing))}" if missing else None


def test_every_quoted_command_exists() -> None:
    wrong = []
    count = 0
    for path in documents():
        for line in quoted(path.read_text(encoding="utf-8")):
            count += 1
            if why := problem(line):
                wrong.append(f"{path.relative_to(ROOT)}: hubkit {line}: {why}")
    assert not wrong, "\n".join(wrong)
    assert count > 150, "the pattern finds what it should"


@pytest.mark.parametrize(
    "line", ["hub tokens", "relase tiny", "release --frehs", "revisions shw REPO", "runs list|shwo", "plan --fresh"]
)
def test_a_wrong_one_would_be_found(line: str) -> None:
    assert problem(line)
