"""The command line: parse, call, render. ``main`` is the one place where errors become exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import click

from hubkit.cli.common import LazyGroup, output_of
from hubkit.core.errors import HubkitError, InterruptedRun
from hubkit.core.files import os_error, write_atomic
from hubkit.core.home import hubkit_home
from hubkit.core.output import redact

COMMANDS = {
    "init": "hubkit.cli.recipe:init",
    "plan": "hubkit.cli.recipe:plan",
    "release": "hubkit.cli.release:release",
    "runs": "hubkit.cli.runs:runs",
    "check": "hubkit.cli.check:check",
    "verify": "hubkit.cli.verify:verify",
    "card": "hubkit.cli.card:card",
    "revisions": "hubkit.cli.revisions:revisions",
    "space": "hubkit.cli.space:space",
    "hub": "hubkit.cli.hub:hub",
    "doctor": "hubkit.cli.doctor:doctor",
}


@click.group(cls=LazyGroup, commands_at=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hubkit")
def cli() -> None:
    """From one recipe file to a measured, gated release of a fine-tuned chat model on the Hugging Face Hub.

    \b
    hubkit release tiny           rehearse a whole release on the embedded Hub
    hubkit init me/my-model       write a recipe of your own
    hubkit plan                   what would run, and why
    """


class _Terminated(BaseException):
    """Another process asked this one to end. (No KeyboardInterrupt: click would take it for a Ctrl-C.)"""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line and end the process with its exit code (see hubkit.core.errors)."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except (Exception, KeyboardInterrupt, _Terminated) as error:
        said = _said(error)
        output_of().error(said)
        if isinstance(error, _Terminated):
            sys.exit(128 + signal.SIGTERM)
        sys.exit(2 if isinstance(error, click.ClickException) else said.exit_code)


def _said(error: BaseException) -> HubkitError:
    """``error`` as a sentence and what to do next; an unexpected one leaves its traceback in a file."""
    if isinstance(error, HubkitError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort | _Terminated):
        return InterruptedRun("Interrupted.", hint="Run the same command again: it goes on where it stopped.")
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return HubkitError(
            error.format_message(), hint=f"See `{context.command_path if context else 'hubkit'} --help`."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return os_error(error, Path(str(error.filename or hubkit_home())))
    report = hubkit_home() / "traceback.log"
    where = f"please report {report}"
    try:
        write_atomic(report, redact("".join(traceback.format_exception(error))), mode=0o600)
    except HubkitError:
        where = "please report it"
    return HubkitError(f"Unexpected {type(error).__name__}: {error}.", hint=f"This is a bug of hubkit; {where}.")
