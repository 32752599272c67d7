"""Whose blocks these are. What is not the user's own runs only when they say that they trust it.

A repo is the user's own in their namespace or an organisation of theirs. A file or a folder is theirs as a script on
their disk is, unless it shows that it came from a Hub: it lies in a cache of the Hub's client, beside the notes that
``hf download`` leaves, or in a clone (or a worktree of one) whose remote is a Hub's. A clone from the Hub that is asked
is theirs where the repo is.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from hubkit.core.errors import HubkitError
from hubkit.hub.client import Hub

_REMOTE = re.compile(r"^[ \t]*(?:\[[^\]\n]*\])?[ \t]*url[ \t]*=[ \t]*(\S+)", re.MULTILINE | re.IGNORECASE)
_SCP = re.compile(r"(?:[^/@]*@)?(\[[^\]]*\]|[^/:@]+):(.*)")
_HUB = "huggingface.co"
_LOCAL = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}
_PORTS = {"http": 80, "https": 443}


def repo_stranger(hub: Hub, repo: str) -> str | None:
    """Why ``repo`` is not the user's own; None when it is."""
    account = hub.whoami()
    if account is None:
        return f"there is no token that says who you are on {hub.endpoint}"
    mine = {name.lower() for name in (account.name, *account.organizations)}
    namespace = repo.partition("/")[0]
    return None if namespace.lower() in mine else f"{namespace} is neither {account.name} nor an organisation of theirs"


def path_stranger(path: Path, hub: Hub | None = None) -> str | None:
    """Why the file or folder at ``path`` shows that it came from a Hub; None when nothing shows it.

    ``hub`` is asked who the user is, when it is a clone of a repo there.
    """
    named, real = path.absolute(), path.resolve()  # files of a cache are links
    if any(part.startswith(("models--", "datasets--", "spaces--")) for part in (*named.parts, *real.parts)):
        return "it is in a cache of what was downloaded from a Hub"
    for folder in [real, *real.parents] if path.is_dir() else real.parents:
        if (folder / ".cache" / "huggingface" / "download").is_dir():
            return "it was downloaded from a Hub (.cache/huggingface is beside it)"
        if config := _git_config(folder / ".git"):
            text = config.read_text(encoding="utf-8", errors="replace")
            found = (_clone_of(url, hub) for url in _REMOTE.findall(text))
            return next((why for why in found if why), None)
    return None


def _git_config(git: Path) -> Path | None:
    """Git's settings of a clone: for worktrees and modules ``git`` is a file that names the place."""
    try:
        if git.is_file():
            named = git.read_text(encoding="utf-8", errors="replace").strip()
            git = git.parent / named.removeprefix("gitdir:").strip()
        common = git / "commondir"
        if common.is_file():
            git = git / common.read_text(encoding="utf-8", errors="replace").strip()
        return git / "config" if (git / "config").is_file() else None
    except OSError:  # it names nothing that could be a place
        return None


def _clone_of(url: str, hub: Hub | None) -> str | None:
    """Why a clone of ``url`` belongs to someone else; None if it is the user's own or not on a Hub."""
    site, names = _address(url.replace('"', ""))
    here = _address(hub.endpoint)[0] if hub else None
    if not names or site not in {_HUB, here}:
        return None
    if len(names) == 1:  # the oldest models have no namespace
        return f"it is a clone of {names[0]} on {site}"
    with contextlib.suppress(HubkitError):  # a Hub that does not answer has not said that it is theirs
        if hub and site == here and repo_stranger(hub, names[0]) is None:
            return None
    return f"it is a clone of a repo of {names[0]} on {site}"


def _address(url: str) -> tuple[str, list[str]]:
    """The host of ``url``, with its port where that is not the usual one, and the parts of the repo's id.

    One name each for the Hub's own hosts and for this machine.
    """
    scp = None if "://" in url else _SCP.fullmatch(url)
    try:
        parts = urlsplit(f"ssh://{scp[1]}/{scp[2]}" if scp else url if "://" in url else f"//{url}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "", []
    names = [part for part in parts.path.split("/") if part]
    if names[:1] in (["datasets"], ["spaces"]):
        del names[0]
    if f".{host}".endswith((f".{_HUB}", ".hf.co")):
        return _HUB, names
    host = "127.0.0.1" if host in _LOCAL else host
    usual = parts.scheme not in _PORTS or port in {None, _PORTS[parts.scheme]}
    return host if usual else f"{host}:{port}", names
