"""The Hub that a command uses: which one, with whose token, and how its pages are opened."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hubkit.cli.options import output_of
from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.output import hide
from hubkit.core.target import DEFAULT_ENDPOINT, Target

if TYPE_CHECKING:
    from hubkit.hub.client import Hub
    from hubkit.recipe.models import Recipe


def find_target(hub_name: str | None, recipe: Recipe | None = None, *, start: bool = True) -> Target:
    """The Hub to use: ``--hub``, else the recipe's, else ``HF_ENDPOINT``, else the embedded one.

    The embedded Hub is started if it is not running and ``start`` is set. A token is attached only if it was issued
    for that endpoint: the embedded Hub's own, the user's for huggingface.co, and ``HF_TOKEN`` for another URL only
    when ``HF_ENDPOINT`` is the same URL.
    """
    home = hubkit_home()
    paired = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    name = (hub_name or (recipe.hub if recipe else None) or paired or "embedded").rstrip("/")
    if name == "embedded":
        return _embedded(home, start=start)
    endpoint = DEFAULT_ENDPOINT if name == "huggingface" else name
    address = urlsplit(endpoint)
    if address.scheme not in {"http", "https"} or not address.netloc or "@" in address.netloc:
        raise UsageError(f"{name!r} is not a Hub.", hint="Pass --hub embedded, --hub huggingface or --hub URL.")
    if endpoint == DEFAULT_ENDPOINT:
        return _huggingface(paired)
    from hubkit.server import process

    running = process.status(home / "hub")
    if running is not None and running.url == endpoint:
        return _embedded(home, start=False)
    token = os.environ.get("HF_TOKEN") if paired == endpoint else None
    hide(token)
    return Target(endpoint, home / "hf" / address.netloc.replace(":", "_"), token)


def _huggingface(paired: str) -> Target:
    """huggingface.co with the user's token; ``paired`` is ``HF_ENDPOINT``."""
    from huggingface_hub import constants, get_token

    if "HF_OIDC_RESOURCE" in os.environ:  # get_token() would request a token by itself, without a time limit
        token = None
    else:
        # get_token() reads HF_TOKEN first; with HF_ENDPOINT set, that one was issued for another Hub.
        token = get_token() if paired in {"", DEFAULT_ENDPOINT} else _saved_token(Path(constants.HF_TOKEN_PATH))
    hide(token)
    return Target(DEFAULT_ENDPOINT, Path(constants.HF_HOME), token)


def _saved_token(path: Path) -> str | None:
    """The token that `hf auth login` saved."""
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def _embedded(home: Path, *, start: bool) -> Target:
    from hubkit.server import process

    running = process.status(home / "hub")
    if running is None and start:
        running = process.start(home / "hub")
        output_of().say(f"Started the embedded Hub of {home} at {running.url}.")
        if running.warning:
            output_of().warn(running.warning)
    if running is None:
        raise UsageError("The embedded Hub is not running.", hint="Start it with `hubkit hub start`.")
    hide(running.token)
    return Target(running.url, home / "hf" / "embedded", running.token, embedded=True)


def find_hub(hub_name: str | None) -> Hub:
    """A client of the Hub to use (:func:`find_target`)."""
    from hubkit.hub.client import connect

    return connect(find_target(hub_name))


def running_hub(hub_name: str | None) -> Hub | None:
    """A client of the Hub to use; None if that is the embedded one, nobody named it, and it is not running."""
    from hubkit.hub.client import connect

    try:
        return connect(find_target(hub_name, start=False))
    except HubkitError:
        if hub_name:
            raise
        return None


def person_with_browser() -> bool:
    """Whether somebody is at this terminal, on a machine with a display."""
    here = os.isatty(0) and os.isatty(1) and not {"CI", "SSH_CONNECTION"} & os.environ.keys()
    return here and (sys.platform in {"darwin", "win32"} or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()))


def open_page(target: Target, url: str) -> str | None:
    """Open ``url`` of ``target`` in the browser, on the embedded Hub as its owner.

    Returns None, or the address to open elsewhere if no browser can be opened here; one of the embedded Hub works
    once, for a minute.
    """
    import webbrowser

    if target.embedded:
        from hubkit.hub.client import connect

        url = connect(target).page_session(url.removeprefix(target.endpoint) or "/")
    return None if webbrowser.open(url) else url
