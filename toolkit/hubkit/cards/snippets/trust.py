"""Whose blocks these are. What is not the user's own runs only when they say that they trust it.

A repo is the user's own in their namespace or an organisation of theirs. A file or a folder is theirs as a script on
their disk is, unless something shows that it came from elsewhere: it lies in a cache of the Hub's client, beside the
notes that ``hf download`` leaves, in a release of somebody else's, or in a clone. A clone is theirs where each of its
remotes is a repo of their own on the Hub that is asked, or when it has none and never had one. What cannot be
known is not theirs.
"""

from __future__ import annotations

from pathlib import Path

from hubkit.cards.snippets.clones import UNREADABLE, addresses, repo_on, site_of
from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import HubkitError
from hubkit.core.names import repo_id_problem
from hubkit.hub.client import Hub

_CACHE_PARTS = ("models--", "datasets--", "spaces--")
_NOTES = (".cache/huggingface/download", ".cache/huggingface/.gitignore")
"""What ``hf download --local-dir`` leaves beside the files."""
_MANIFEST = ".hubkit/manifest.json"


def repo_stranger(hub: Hub, repo: str) -> str | None:
    """Why ``repo`` is not the user's own; None when it is."""
    account = hub.whoami()
    if account is None:
        return f"there is no token that says who you are on {hub.endpoint}"
    mine = {name.lower() for name in (account.name, *account.organizations)}
    namespace = repo.partition("/")[0]
    return None if namespace.lower() in mine else f"{namespace} is neither {account.name} nor an organisation of theirs"


def path_stranger(path: Path, hub: Hub | None = None) -> str | None:
    """Why the file or folder at ``path`` is not the user's own; None when nothing shows it.

    ``hub`` is asked who the user is, when it is a clone or a release of a repo there.
    """
    named, real = path.absolute(), path.resolve()  # files of a cache are links
    if any(part.startswith(_CACHE_PARTS) for part in (*named.parts, *real.parts)):
        return "it is in a cache of what was downloaded from a Hub"
    owner = _Owner(hub)
    return next((why for start in dict.fromkeys((named, real)) if (why := _above(start, path.is_dir(), owner))), None)


def _above(path: Path, folder: bool, owner: _Owner) -> str | None:
    """What the folders from ``path`` upwards show. The nearest clone counts, and every note of a download."""
    cloned = False
    for place in [path, *path.parents] if folder else path.parents:
        if any((place / note).exists() for note in _NOTES):
            return "it was downloaded from a Hub (.cache/huggingface is beside it)"
        if (place / _MANIFEST).exists() and (why := owner.of_release(place / _MANIFEST)):
            return why
        git = place / ".git"
        if not cloned and (git.exists() or git.is_symlink()):
            cloned = True
            if why := owner.of_clone(git):
                return why
    return None


class _Owner:
    """Compares what is found with the repos of the user on one Hub, which is asked once for each of them."""

    def __init__(self, hub: Hub | None) -> None:
        self.hub = hub
        self.known: dict[str, bool] = {}

    def of_clone(self, git: Path) -> str | None:
        """Why the clone at ``git`` is not the user's own."""
        for url in addresses(git):
            if url == UNREADABLE:
                return "git cannot tell where its clone came from"
            repo = repo_on(url, self.hub.endpoint) if self.hub else None
            if repo is None or not self._owns(repo):
                return self._clone_of(url)
        return None

    def of_release(self, manifest: Path) -> str | None:
        """Why the release with this ``manifest`` is not the user's own."""
        try:
            content = load_json(manifest.read_bytes() if manifest.stat().st_size <= SETTINGS.bytes else b"", SETTINGS)
            repo = content["repo"]
        except (OSError, JsonError, KeyError, TypeError):
            repo = None
        if not isinstance(repo, str) or repo_id_problem(repo):
            return f"its {_MANIFEST} names no repo"
        return None if self._owns(repo) else f"it is a release of {repo}, which is not a repo of yours"

    def _owns(self, repo: str) -> bool:
        if self.hub is None:
            return False
        if repo not in self.known:
            try:
                self.known[repo] = repo_stranger(self.hub, repo) is None
            except HubkitError:  # a Hub that does not answer has not said that it is theirs
                self.known[repo] = False
        return self.known[repo]

    def _clone_of(self, url: str) -> str:
        site = site_of(url)
        repo = repo_on(url, url) if site else None
        if repo:
            return f"it is a clone of a repo of {repo.partition('/')[0]} on {site}"
        return f"it has a remote that is no repo of yours ({site or 'not an address on a Hub'})"
