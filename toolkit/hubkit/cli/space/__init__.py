"""`hubkit space`: Gradio Spaces, of a release or any other, and the chat app for any model."""

from __future__ import annotations

import click

from hubkit.cli.space.deploying import build, deploy
from hubkit.cli.space.running import run
from hubkit.cli.space.state import logs, pause, restart, rollback, status

__all__ = ["space"]


@click.group()
def space() -> None:
    """Run, deploy and monitor Gradio Spaces; chat with any model.

    Works with the Space of a release and with any other Gradio Space.
    """


for command in (build, run, deploy, status, logs, restart, pause, rollback):
    space.add_command(command)
