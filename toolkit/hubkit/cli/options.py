"""The options that commands share, the output that they choose, questions to the person, and completion of values."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubkit.core.errors import InterruptedRun, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.names import repo_id_problem
from hubkit.core.output import Output
from hubkit.core.printable import printable, printable_lines

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_Command = TypeVar("_Command", bound=Callable[..., Any])
_output = Output()


def output_of() -> Output:
    """The output of the command that is running."""
    return _output


def output_options(command: _Command) -> _Command:
    """Add ``--json`` and ``-q``. They take effect before the other parameters are read."""

    def quiet(ctx: click.Context, option: click.Parameter, given: bool) -> None:
        global _output
        if given:
            _output = Output("quiet")

    def as_json(ctx: click.Context, option: click.Parameter, given: bool) -> None:
        global _output
        if given:
            _output = Output("json")

    for flags, callback, text in (
        (("-q", "--quiet"), quiet, "Print errors only."),
        (("--json",), as_json, "Print the result as JSON on standard output."),
    ):
        command = click.option(*flags, is_flag=True, expose_value=False, is_eager=True, callback=callback, help=text)(
            command
        )
    return command


def hub_option(command: _Command) -> _Command:
    """Add ``--hub``, for a command that reads no recipe."""
    return _hub_option("HF_ENDPOINT, or embedded")(command)


def recipe_hub_option(command: _Command) -> _Command:
    """Add ``--hub``, for a command that reads a recipe."""
    return _hub_option("the recipe's, HF_ENDPOINT, or embedded")(command)


def _hub_option(default: str) -> Callable[[_Command], _Command]:
    text = f"Use this Hub: 'embedded', 'huggingface' or a URL. Default: {default}."
    return click.option("--hub", "hub_name", metavar="HUB", shell_complete=complete_hubs, help=text)


def confirm_option(command: _Command) -> _Command:
    """Add ``-y``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def revision_option(command: _Command) -> _Command:
    """Add ``--revision``, for a command that takes a repo."""
    return click.option(
        "--revision",
        default="main",
        show_default=True,
        metavar="REVISION",
        help="Use this branch, tag or commit of a repo.",
    )(command)


def recipe_argument(command: _Command) -> _Command:
    """Add ``RECIPE``: a file, a folder, or the name of a built-in recipe."""
    return click.argument("recipe", required=False, shell_complete=complete_recipes)(command)


def run_argument(command: _Command) -> _Command:
    """Add ``RUN``: the name of a run."""
    return click.argument("run", shell_complete=_run_names)(command)


def place_argument(metavar: str) -> Callable[[_Command], _Command]:
    """Add an argument ``what`` that names a repo, or a file or folder here."""

    def add(command: _Command) -> _Command:
        return click.argument("what", metavar=metavar, shell_complete=_files)(command)

    return add


def ask(question: str, *, yes: bool) -> None:
    """Return when the person agrees: InterruptedRun if not, UsageError without a terminal and without ``-y``."""
    if yes:
        return
    if not os.isatty(0):
        raise UsageError(f"{question} Confirmation needs a terminal.", hint="Pass -y to confirm.")
    if not click.confirm(printable_lines(question), err=True):
        raise InterruptedRun("Nothing was changed.")


def repo_id(name: str, context: str = "") -> str:
    """``name`` if it is a valid repo id; UsageError (which begins with ``context``) if not."""
    if problem := repo_id_problem(name):
        start = f"{context} " if context else ""
        raise UsageError(f"{start}{name!r} is not a repo id: {problem}.", hint="Write it as namespace/name.")
    return name


def repo_not_path(what: str, *, or_file: bool = False) -> str:
    """``what``, which is not on this machine, as a repo id; UsageError if it looks like a path, or is no repo id.

    ``or_file``: the command takes a card's file too.
    """
    if what.startswith((".", "/", "~")) or (or_file and what.endswith(".md")):
        kinds, hint = ("file or folder", "a card, a folder,") if or_file else ("folder", "a folder,")
        raise UsageError(f"There is no {kinds} {what}.", hint=f"Name {hint} or a repo as namespace/name.")
    return repo_id(what)


def complete_recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The built-in recipes and the YAML files here that begin with ``incomplete``; paths otherwise."""
    from pathlib import Path

    from hubkit.core.libraries import offered

    names = sorted(offered("hubkit.recipes"))
    files = sorted(path.name for path in Path().glob("*.y*ml"))
    return _matching([*names, *files], incomplete) or _files(ctx, param, incomplete)


def built_in_recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The built-in recipes that begin with ``incomplete``."""
    from hubkit.core.libraries import offered

    return _matching(sorted(offered("hubkit.recipes")), incomplete)


def _run_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    runs = sorted(about.parent.name for about in hubkit_home().glob("runs/*/run.json"))
    return _matching(runs, incomplete)


def complete_hubs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The Hubs by their names that begin with ``incomplete``."""
    named = os.environ.get("HF_ENDPOINT")
    return _matching(["embedded", "huggingface", *([named] if named else [])], incomplete)


def _files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _matching(names: list[str], incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete) and name == printable(name)]
