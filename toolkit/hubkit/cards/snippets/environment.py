"""Where blocks run: the Hub that they talk to, what of the environment they get, and with which token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hubkit.core.names import repo_id_problem
from hubkit.core.processes.parent import allowed_environment
from hubkit.hub.client import Hub

_PASSED = ("CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""The user's variables that blocks get besides those of every child: which devices to use, whom to trust."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
"""The way to the Hub from behind a firewall; an address may hold a password, so strangers' blocks do not get it."""
_TOKEN = "hubkit card run"
_ASKED = 8
"""Repos that are asked about, at most: a stranger's card may name thousands."""


@dataclass(frozen=True)
class Place:
    """A Hub and a folder for the blocks' homes. ``token`` is one for this Hub, or None; ``own``: the blocks are the
    user's own."""

    endpoint: str
    folder: Path
    token: str | None = field(default=None, repr=False)
    own: bool = True

    @property
    def cache(self) -> Path:
        """Where the blocks' downloads are kept."""
        return self.folder / "hf" / "hub"

    def environment(self) -> dict[str, str]:
        """The whole environment of the blocks. The cache of models is one for all of them: each loads the same."""
        home = self.folder / "home"
        passed = (*_PASSED, *_PROXIES, *map(str.lower, _PROXIES)) if self.own else _PASSED
        found = allowed_environment(passed) | {
            "HOME": str(home), "TMPDIR": str(self.folder / "tmp"), "XDG_CACHE_HOME": str(home / ".cache"),
            "HF_HOME": str(self.folder / "hf"), "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
            # numpy's threads begin when it is imported, and a process with threads is not forked.
            "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        return found | ({"HF_TOKEN": self.token} if self.token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


@contextmanager
def place_for(hub: Hub, folder: Path, repos: Iterable[str], *, own: bool = True) -> Iterator[Place]:
    """A place whose token, if one is needed to read ``repos``, may read only where the Hub issues such tokens.

    The embedded Hub's is made for this and ended afterwards; elsewhere it is the user's own token for that Hub, which
    may do what they may, so blocks that are not their own get none.
    """
    token, ids = None, []
    asked = [repo for repo in dict.fromkeys(repos) if not repo_id_problem(repo)][:_ASKED]
    if (own or hub.target.embedded) and any(hub.is_closed(repo) for repo in asked):
        token = hub.target.token
        if hub.target.embedded:
            before = hub.tokens(_TOKEN)
            token = hub.reading_token(_TOKEN)
            ids = [item for item in hub.tokens(_TOKEN) if item not in before]
    try:
        yield Place(hub.endpoint, folder, token, own)
    finally:
        if ids:
            hub.revoke_tokens(ids)
