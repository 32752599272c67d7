"""Whose blocks these are. What is not the user's own runs only when they say that they trust it.

A repo is the user's own in their namespace or an organisation of theirs. A file or a folder is theirs as a script on
their disk is, unless it shows that it came from a Hub: it lies in a cache of the Hub's client, beside the notes that
``hf download`` leaves, or in a clone whose remote is a Hub's.
"""

from __future__ import annotations

import re
from pathlib import Path

from hubkit.hub import Hub

_REMOTE = re.compile(
    r"^\s*url\s*=\s*(?:\w+://)?(?:[^/\s@]*@)?([\w.-]+(?::\d+)?)[/:](?:spaces/)?([\w.-]+)/", re.MULTILINE
)
_HUBS = ("huggingface.co", "hf.co")


def repo_stranger(hub: Hub, repo: str) -> str | None:
    """Why ``repo`` is not the user's own; None when it is."""
    account = hub.whoami()
    if account is None:
        return f"there is no token that says who you are on {hub.endpoint}"
    mine = {name.lower() for name in (account.name, *account.organizations)}
    namespace = repo.partition("/")[0]
    return None if namespace.lower() in mine else f"{namespace} is neither {account.name} nor an organisation of theirs"


def path_stranger(path: Path, endpoint: str | None = None) -> str | None:
    """Why the file or folder at ``path`` shows that it came from a Hub; None when nothing shows it."""
    named, real = path.absolute(), path.resolve()  # files of a cache are links
    if any(part.startswith(("models--", "datasets--", "spaces--")) for part in (*named.parts, *real.parts)):
        return "it lies in a cache of what was downloaded from a Hub"
    for folder in [real, *real.parents] if path.is_dir() else real.parents:
        if (folder / ".cache" / "huggingface" / "download").is_dir():
            return "it was downloaded from a Hub (.cache/huggingface lies beside it)"
        config = folder / ".git" / "config"
        if config.is_file():
            hubs = (*_HUBS, *([endpoint.partition("://")[2]] if endpoint else []))
            for host, namespace in _REMOTE.findall(config.read_text(encoding="utf-8", errors="replace")):
                if host in hubs:
                    return f"it is a clone of a repo of {namespace} on {host}"
            return None
    return None
