"""`hubkit doctor`: is this machine ready?"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import click

from hubkit import __version__
from hubkit.cli.common import find_target, hub_option, output_of, speaks
from hubkit.core.errors import HubkitError
from hubkit.core.home import hubkit_home
from hubkit.core.output import megabytes, table

_LIBRARIES = {
    "train": ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate"),
    "eval": ("lm_eval",),
    "server": ("pygit2", "starlette", "uvicorn"),
    "space": ("gradio",),
    "base": ("huggingface_hub", "pydantic", "rich", "click"),
}


@click.command()
@hub_option
@speaks
def doctor(hub_name: str | None) -> None:
    """Show versions, devices, the Hub, the token's rights and the disk; say what is missing.

    \b
    hubkit doctor --hub huggingface
    """
    rows: list[tuple[str, str, str]] = [
        ("hubkit", __version__, "ok"),
        ("python", platform.python_version(), "ok"),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "ok"),
    ]
    for extra, names in _LIBRARIES.items():
        for name in names:
            try:
                rows.append((name, version(name), "ok"))
            except PackageNotFoundError:
                rows.append((name, "not installed", f"pip install 'hubkit[{extra}]'"))
    rows.append(("device", *_device()))
    home = hubkit_home()
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    rows.append(("disk", f"{megabytes(free)} free at {home}", "ok" if free > 1e9 else "less than 1 GB is free"))
    rows += _hub(hub_name)
    value = [{"what": what, "found": found, "verdict": verdict} for what, found, verdict in rows]
    output_of().result(value, table(("what", "found", "verdict"), rows))


def _device() -> tuple[str, str]:
    try:
        import torch
    except ImportError:
        return "torch is not installed", "pip install 'hubkit[train]'"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return names, "ok"
    return "CPU only", "ok for the tiny recipe; a 7B model needs a GPU"


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
        return [*rows, ("token", "not accepted by this Hub", "run `hf auth login`")]
    rights = {"read": "may only read; publishing needs write"}.get(who.role or "", "ok")
    return [*rows, ("token", f"of {who.name} ({who.role or 'rights not told'})", rights)]
