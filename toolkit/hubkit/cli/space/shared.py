"""What the commands of `hubkit space` share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from hubkit.core.output import hide

if TYPE_CHECKING:
    from hubkit.core.target import Target

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Fail if the app does not start in this time.",
)


def app_environment(target: Target) -> dict[str, str]:
    """What an app needs to load models from ``target``; HUBKIT_SPACE_TOKEN is the only token that it gets."""
    from hubkit.publishing.spaces import building

    token = os.environ.get(building.TOKEN)
    hide(token)
    return building.environment(target.endpoint, target.home / "hub", token=token)
