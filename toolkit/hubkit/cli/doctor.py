"""`hubkit doctor`: is this machine ready?"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from hubkit import __version__
from hubkit.cli.options import hub_option, output_of, output_options
from hubkit.cli.targets import find_target
from hubkit.core.errors import HubkitError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import size
from hubkit.core.output import table

_LIBRARIES = {
    "train": ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate"),
    "eval": ("lm_eval",),
    "server": ("pygit2", "starlette", "uvicorn"),
    "space": ("gradio",),
    "base": ("huggingface_hub", "pydantic", "rich", "click"),
}


@click.command()
@hub_option
@output_options
def doctor(hub_name: str | None) -> None:
    """Show versions, devices, disk space and access to the Hub.

    What is missing is shown with the command that installs it. Nothing is changed, and no Hub is started.

    \b
    Example:
      hubkit doctor --hub huggingface
    """
    rows: list[tuple[str, str, str]] = [
        ("hubkit", __version__, "ok"),
        ("python", platform.python_version(), "ok"),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "ok"),
    ]
    rows += _libraries()
    rows.append(("device", *_device()))
    home = hubkit_home()
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    rows.append(("disk", f"{size(free)} free at {home}", "ok" if free > 1e9 else "less than 1 GB is free"))
    rows.append(("Spaces", *_confinement(home / "hub")))
    rows += _hub(hub_name)
    value = [{"what": what, "found": found, "verdict": verdict} for what, found, verdict in rows]
    output_of().result(value, table(("item", "value", "status"), rows))


def _libraries() -> Iterator[tuple[str, str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    for extra, names in _LIBRARIES.items():
        for name in names:
            try:
                yield name, version(name), "ok"
            except PackageNotFoundError:
                yield name, "not installed", f"pip install 'hubkit[{extra}]'"


def _device() -> tuple[str, str]:
    from hubkit.models.load import device_names

    try:
        names = device_names()
    except ImportError:
        return "torch is not installed", "pip install 'hubkit[train]'"
    if names:
        return ", ".join(names), "ok"
    return "CPU only", "ok for the tiny recipe; a 7B model needs a GPU"


def _confinement(data: Path) -> tuple[str, str]:
    from hubkit.core.processes.confinement import Reach, best_way

    way = best_way(Reach(write=(data / "spaces",), hidden=(data,)))
    if way is None:
        return "not confined", "run only Spaces that you trust, or hubkit hub start --spaces confined"
    return f"confined by {'another user' if way == 'user' else way}", "ok"


def _hub(hub_name: str | None) -> list[tuple[str, str, str]]:
    try:
        target = find_target(hub_name, start=False)
    except HubkitError as error:
        return [("hub", error.message, error.hint or "")]
    from hubkit.hub.client import connect

    hub = connect(target)
    try:
        hub.check_answers()
    except HubkitError as error:
        return [("hub", target.endpoint, f"{error.message} {error.hint or ''}")]
    rows = [("hub", target.endpoint, "ok"), ("cache", str(target.home), "ok")]
    if target.token is None:
        return [*rows, ("token", "none for this Hub", "public repos can be read; to publish, set HF_TOKEN")]
    try:
        who = hub.whoami()
    except HubkitError as error:
        return [*rows, ("token", error.message, error.hint or "")]
    if who is None:
        return [*rows, ("token", "rejected by this Hub", "run `hf auth login`")]
    rights = {"read": "read-only; publishing needs a write token"}.get(who.role or "", "ok")
    return [*rows, ("token", f"of {who.name} ({who.role or 'rights unknown'})", rights)]
