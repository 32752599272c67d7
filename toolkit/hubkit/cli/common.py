"""What all commands share: the output options, lazy loading, finding the recipe and the Hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from hubkit.core.errors import InterruptedRun, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.names import repo_id_problem
from hubkit.core.output import Output, hide
from hubkit.core.target import DEFAULT_ENDPOINT, Target
from hubkit.pipeline.runner import finished_desk
from hubkit.pipeline.runs import Run, last_run
from hubkit.pipeline.steps import Desk
from hubkit.recipe.models import RECIPE_FILE, Recipe, load_recipe

_Command = TypeVar("_Command", bound=Callable[..., Any])
_current = Output()


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `hubkit --help` is quick."""

    def __init__(self, *args: Any, commands_at: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which a person meets them."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command ``cmd_name``."""
        if cmd_name not in self.commands_at:
            return None
        module, _, name = self.commands_at[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


def output_of() -> Output:
    """The output of the command that runs."""
    return _current


def speaks(command: _Command) -> _Command:
    """Give a command ``--json`` and ``-q``; they take effect before its body runs."""

    def mode(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def set_mode(ctx: click.Context, option: click.Parameter, given: bool) -> None:
            global _current
            if given:
                _current = Output("json" if name == "json" else "quiet")

        return set_mode

    for flags, name, words in (
        (("-q", "--quiet"), "quiet", "Say nothing but errors."),
        (("--json",), "json", "Print JSON on standard output."),
    ):
        command = click.option(
            *flags, is_flag=True, expose_value=False, is_eager=True, callback=mode(name), help=words
        )(command)
    return command


def hub_option(command: _Command) -> _Command:
    """Give a command ``--hub``."""
    words = "The Hub: 'embedded', 'huggingface' or a URL."
    return click.option("--hub", "hub_name", metavar="HUB", help=words)(command)


def confirm_option(command: _Command) -> _Command:
    """Give a command ``-y``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def find_recipe(name: str | None) -> tuple[Recipe, Path]:
    """The recipe called ``name`` (a file, or a built-in one; None: ``./hubkit.yaml``) and the folder of its files.

    With ``HUBKIT_SIGNING_KEY`` it is signed by that key, whatever it says itself.
    """
    if name is None:
        path = Path(RECIPE_FILE).absolute()
    elif (built_in := built_in_recipes().get(name)) is not None and not Path(name).exists():
        path = built_in
    else:
        path = Path(name).absolute()
        if path.is_dir():
            path /= RECIPE_FILE
        elif not path.exists() and "/" not in name and not name.endswith((".yaml", ".yml")):
            known = ", ".join(sorted(built_in_recipes()))
            raise UsageError(f"There is no recipe {name!r}: no such file, and the built-in ones are {known}.")
    found, key = load_recipe(path), os.environ.get("HUBKIT_SIGNING_KEY")
    return found.signed_with(Path(key)) if key else found, path.parent


def built_in_recipes() -> dict[str, Path]:
    """The recipes that installed distributions offer (entry-point group ``hubkit.recipes``), by name."""
    return {point.name: Path(point.load().RECIPE) for point in entry_points(group="hubkit.recipes")}


def find_target(hub_name: str | None, recipe: Recipe | None = None, *, start: bool = True) -> Target:
    """The Hub that is meant: ``--hub``, else the recipe's, else ``HF_ENDPOINT``, else the embedded one.

    The embedded Hub is started when it does not run and ``start`` is set. A token is attached only when it was
    issued for that endpoint: the embedded Hub's own, the user's for huggingface.co, and ``HF_TOKEN`` for another URL
    only when ``HF_ENDPOINT`` names the same one.
    """
    home = hubkit_home()
    paired = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    name = (hub_name or (recipe.hub if recipe else None) or paired or "embedded").rstrip("/")
    if name == "embedded":
        return _embedded(home, start=start)
    endpoint = DEFAULT_ENDPOINT if name == "huggingface" else name
    address = urlsplit(endpoint)
    if address.scheme not in {"http", "https"} or not address.netloc or "@" in address.netloc:
        raise UsageError(f"{name!r} is no Hub.", hint="Write --hub embedded, --hub huggingface or --hub URL.")
    if endpoint == DEFAULT_ENDPOINT:
        from huggingface_hub import constants, get_token

        if "HF_OIDC_RESOURCE" in os.environ:  # get_token() would ask for a token by itself, with no limit of time
            token = None
        else:
            # get_token() reads HF_TOKEN first; with HF_ENDPOINT set, that one was issued for another Hub.
            token = get_token() if paired in {"", endpoint} else _saved_token(Path(constants.HF_TOKEN_PATH))
        hide(token)
        return Target(endpoint, Path(constants.HF_HOME), token)
    from hubkit.server import process

    running = process.status(home / "hub")
    if running is not None and running.url == endpoint:
        return _embedded(home, start=False)
    token = os.environ.get("HF_TOKEN") if paired == endpoint else None
    hide(token)
    return Target(endpoint, home / "hf" / address.netloc.replace(":", "_"), token)


def _saved_token(path: Path) -> str | None:
    """The token that `hf auth login` saved."""
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def _embedded(home: Path, *, start: bool) -> Target:
    from hubkit.server import process

    running = process.status(home / "hub")
    if running is None and start:
        running = process.start(home / "hub")
        _current.say(f"Started the embedded Hub of {home} at {running.url}.")
    if running is None:
        raise UsageError("The embedded Hub does not run.", hint="Start it with `hubkit hub start`.")
    hide(running.token)
    return Target(running.url, home / "hf" / "embedded", running.token, embedded=True)


def ask(question: str, *, yes: bool) -> None:
    """Go on only when the person agrees: InterruptedRun for a no, UsageError with nobody there and no ``-y``."""
    if yes:
        return
    if not os.isatty(0):
        raise UsageError(f"{question} Nobody is there to ask.", hint="Give -y to agree.")
    if not click.confirm(question, err=True):
        raise InterruptedRun("Nothing was changed.")


def repo_id(name: str, otherwise: str = "") -> str:
    """``name`` when it can be a repo's; UsageError (which begins with ``otherwise``) when it cannot."""
    if problem := repo_id_problem(name):
        said = f"{otherwise} " if otherwise else ""
        raise UsageError(f"{said}{name!r} is not a repo id: {problem}.", hint="Write it as namespace/name.")
    return name


def card_repo(what: str) -> str:
    """``what``, which is no file or folder here, as a repo id; UsageError when it was meant for a path, or is none."""
    if what.startswith((".", "/", "~")) or what.endswith(".md"):
        raise UsageError(f"There is no file or folder {what}.", hint="Name a card, a folder, or a repo.")
    return repo_id(what)


def person_with_browser() -> bool:
    """Whether somebody sits at this terminal, on a machine that shows windows."""
    here = os.isatty(0) and os.isatty(1) and not {"CI", "SSH_CONNECTION"} & os.environ.keys()
    return here and (sys.platform in {"darwin", "win32"} or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()))


def open_page(target: Target, url: str) -> str | None:
    """Open ``url`` of ``target`` in the browser, on the embedded Hub as its owner.

    Where no browser can be opened, the address to open elsewhere: on the embedded Hub it works once, for a minute.
    """
    import webbrowser

    if target.embedded:
        from hubkit.hub.client import connect

        url = connect(target).page_session(url.removeprefix(target.endpoint) or "/")
    return None if webbrowser.open(url) else url


def last_desk(recipe: Recipe, folder: Path, hub_name: str | None) -> Desk:
    """The desk as the last run of this recipe left it; an empty one when there is none. Starts no Hub."""
    home = hubkit_home()
    if (hub_name or recipe.hub) == "embedded":
        target = Target("", home / "hf" / "embedded", embedded=True)
    else:
        target = find_target(hub_name, recipe, start=False)
    run = last_run(home, recipe.repo, target) or Run(home / "runs" / "(none)")
    return finished_desk(recipe, folder, target, run)
