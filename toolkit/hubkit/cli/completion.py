"""`hubkit completion`: the completion script of a shell, printed or installed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_HUBKIT_COMPLETE"


@click.group()
def completion() -> None:
    """Print or install completion for your shell."""


@completion.command()
@output_options
def bash() -> None:
    """Print the completion script for bash 4.4 or later.

    \b
    Example:
      source <(hubkit completion bash)       for this session
    """
    _print("bash")


@completion.command()
@output_options
def zsh() -> None:
    """Print the completion script for zsh.

    \b
    Example:
      source <(hubkit completion zsh)        for this session, after compinit
    """
    _print("zsh")


@completion.command()
@output_options
def fish() -> None:
    """Print the completion script for fish.

    \b
    Example:
      hubkit completion fish | source        for this session
    """
    _print("fish")


@completion.command()
@click.option("--shell", type=click.Choice(SHELLS), help="Install for this shell. Default: the shell that SHELL names.")
@output_options
def install(shell: str | None) -> None:
    """Write the completion script to the folder that your shell reads.

    No start-up file is changed. If yours needs a line, the line is printed.

    \b
    Examples:
      hubkit completion install
      hubkit completion install --shell zsh
    """
    from hubkit.core.files import write_atomic

    shell = shell or _login_shell()
    path, script = _place(shell), _script(shell)
    present = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if present is not None and _VARIABLE not in present:
        raise UsageError(
            f"{path} is not a completion script of hubkit; nothing was written.", hint="Move that file away first."
        )
    if present != script:
        write_atomic(path, script)
    output = output_of()
    state = "Up to date" if present == script else "Wrote"
    output.result({"shell": shell, "path": str(path), "written": present != script}, f"{state}: {path}")
    output.say(_next_step(shell, path))


def _print(shell: str) -> None:
    output, script = output_of(), _script(shell)
    if output.mode == "json":
        output.result({"shell": shell, "script": script})
    else:
        output.text(script)


def _script(shell: str) -> str:
    """click's completion script for ``shell``."""
    from click.shell_completion import get_completion_class

    from hubkit.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, "hubkit", _VARIABLE).source()


def _login_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        found = f"SHELL names {name!r}" if name else "SHELL is not set"
        raise UsageError(f"{found}; there is completion for {', '.join(SHELLS)}.", hint="Name your shell with --shell.")
    return name


def _place(shell: str) -> Path:
    """Where ``shell`` looks for the completion scripts of a user."""
    if shell == "bash":  # bash-completion loads a script from here when its command is first completed
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        folder = os.environ.get("BASH_COMPLETION_USER_DIR") or Path(data) / "bash-completion"
        return Path(folder) / "completions/hubkit"
    if shell == "zsh":  # zsh reads no folder of the user's by itself; .zfunc is the usual one to add to fpath
        return _zsh_folder() / ".zfunc/_hubkit"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fish/completions/hubkit.fish"


def _zsh_folder() -> Path:
    return Path(os.environ.get("ZDOTDIR") or Path.home())


def _next_step(shell: str, path: Path) -> str:
    if shell == "bash":
        return "It works in new shells if the package bash-completion (2 or later) is installed."
    if shell == "fish":
        return "It works in new shells."
    start_up = _zsh_folder() / ".zshrc"
    if start_up.is_file() and path.parent.name in start_up.read_text(encoding="utf-8", errors="replace"):
        return "It works in new shells."
    return f"Add this line to {start_up}: fpath+=({path.parent}); autoload -Uz compinit; compinit"
