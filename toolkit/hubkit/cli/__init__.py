"""The command line: parse, call, render. ``main`` is the one place where errors become exit codes.

Imports every package; no package imports it. A file per noun, imported when its command is called: what a command needs
beyond click is imported in its body, so that help, completion and `hubkit hub status` stay instant
(tests/cli/test_startup.py lists what they must not import). Start reading at :data:`SECTIONS`.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from hubkit import __version__
from hubkit.cli.lazy import Lazy, LazyGroup
from hubkit.cli.options import output_of
from hubkit.core.errors import HubkitError, InterruptedRun, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.output import show_plainly

SECTIONS = {
    "Release commands": {
        "init": Lazy("hubkit.cli.init:init", "Write a recipe of your own, hubkit.yaml, into this folder."),
        "plan": Lazy("hubkit.cli.plan:plan", "Check a recipe, and show every step of its release."),
        "data": Lazy("hubkit.cli.data:data", "Check and show the rows of a recipe, without training."),
        "release": Lazy("hubkit.cli.release:release", "Train, measure, gate and publish a model from a recipe."),
        "runs": Lazy("hubkit.cli.runs:runs", "List, show, watch and remove runs."),
    },
    "Commands for any model": {
        "check": Lazy("hubkit.cli.check:check", "Check a model for problems without loading it."),
        "reproduce": Lazy("hubkit.cli.reproduce:reproduce", "Train and merge a release again, and compare."),
        "verify": Lazy("hubkit.cli.verify:verify", "Compare a release with its manifest and its signature."),
        "merge": Lazy("hubkit.cli.merge:merge", "Merge a LoRA adapter into its base model."),
        "convert": Lazy("hubkit.cli.convert:convert", "Convert pickled weights to safetensors."),
        "gguf": Lazy("hubkit.cli.gguf:gguf", "Write a model as GGUF, for llama.cpp, Ollama and LM Studio."),
        "readers": Lazy(
            "hubkit.cli.readers:readers",
            "Load and ask a model in other versions of transformers and PEFT.",
        ),
        "card": Lazy("hubkit.cli.card:card", "Render, lint and run model cards."),
        "rules": Lazy("hubkit.cli.rules:rules", "List the rules of the checks, or explain one."),
    },
    "Hub commands": {
        "revisions": Lazy("hubkit.cli.revisions:revisions", "List, compare and change the revisions of any repo."),
        "space": Lazy("hubkit.cli.space:space", "Run, deploy and monitor Gradio Spaces; chat with any model."),
    },
    "Commands for this machine": {
        "hub": Lazy("hubkit.cli.hub:hub", "Start, stop and open the embedded Hub."),
        "doctor": Lazy("hubkit.cli.doctor:doctor", "Show versions, devices, disk space and access to the Hub."),
        "completion": Lazy("hubkit.cli.completion:completion", "Print or install completion for your shell."),
    },
}
"""The commands as `hubkit --help` shows them. The short helps are the first sentences of the commands' own."""


@click.group(cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """From one recipe file to a measured, gated release of a fine-tuned chat model on the Hugging Face Hub.

    \b
    Examples:
      hubkit release tiny        rehearse a complete release on the embedded Hub
      hubkit init me/my-model    write a recipe of your own
      hubkit plan                show what would run, and why
    """


class _Terminated(BaseException):
    """Another process asked this one to end. (Not KeyboardInterrupt: click would treat it as Ctrl-C.)"""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line and end the process with its exit code (see hubkit.core.errors)."""
    signal.signal(signal.SIGTERM, _terminated)
    show_plainly()
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
        failure = _as_hubkit_error(error)
        output_of().error(failure)
        if isinstance(error, _Terminated):
            sys.exit(128 + signal.SIGTERM)
        sys.exit(2 if isinstance(error, click.ClickException) else failure.exit_code)


def _as_hubkit_error(error: BaseException) -> HubkitError:
    """``error`` as a message and a next action; the traceback of an unexpected one goes to a file."""
    if isinstance(error, HubkitError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort | _Terminated):
        return InterruptedRun("Interrupted.", hint="Run the same command again: it resumes where it stopped.")
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return HubkitError(
            error.format_message(), hint=f"See `{context.command_path if context else 'hubkit'} --help`."
        )
    from hubkit.core.files import os_error

    # A byte that is not UTF-8 arrives as half a character: a path may have it, nothing that is sent may.
    bad = next((word for word in sys.argv[1:] if not word.isascii() and re.search("[\udc80-\udcff]", word)), None)
    if isinstance(error, UnicodeEncodeError) and bad is not None:
        return UsageError(f"This argument is not UTF-8: {bad}.", hint="Write it in UTF-8.")
    if isinstance(error, OSError) and error.errno is not None:
        return os_error(error, Path(str(error.filename or hubkit_home())))
    return _bug(error)


def _bug(error: BaseException) -> HubkitError:
    """An unexpected error, with its traceback in a file."""
    import traceback

    from hubkit.core.files import write_atomic
    from hubkit.core.output import redact
    from hubkit.core.printable import printable_lines

    report = hubkit_home() / "traceback.log"
    where = f"please report it with {report}"
    try:
        write_atomic(report, redact(printable_lines("".join(traceback.format_exception(error)))), mode=0o600)
    except HubkitError:
        where = "please report it"
    return HubkitError(f"Unexpected {type(error).__name__}: {error}.", hint=f"This is a bug in hubkit; {where}.")
