"""The client of one Hub: one connection with a method for each request.

    hub = connect(target)
    hub.head("me/model", "main")    # commit, or None when there is no such branch

Every request has a time limit (:mod:`hubkit.hub.transport`) and fails with one sentence (:mod:`hubkit.hub.errors`).
Reads are retried (:mod:`hubkit.hub.retry`), writes are sent once: whoever writes reads the Hub before it writes again
(:mod:`hubkit.publishing.compare_and_swap`). The methods stand in files by what they are about: :mod:`~hubkit.hub.refs`,
:mod:`~hubkit.hub.files`, :mod:`~hubkit.hub.commits`, :mod:`~hubkit.hub.pull_requests`, :mod:`~hubkit.hub.auth`,
:mod:`~hubkit.hub.spaces`, :mod:`~hubkit.hub.collections`, :mod:`~hubkit.hub.embedded`.
"""

from __future__ import annotations

from hubkit.core.target import Target
from hubkit.hub import private_api
from hubkit.hub.collections import CollectionCalls
from hubkit.hub.commits import CommitCalls
from hubkit.hub.connection import Gated, RepoType, Visibility
from hubkit.hub.embedded import EmbeddedCalls
from hubkit.hub.errors import translated
from hubkit.hub.refs import Commit, RefCalls, Refs
from hubkit.hub.spaces import Runtime, SpaceCalls
from hubkit.hub.transport import install
from hubkit.hub.trusted_publishing import renewal

__all__ = ["Commit", "Gated", "Hub", "Refs", "RepoType", "Runtime", "Visibility", "connect"]


class Hub(RefCalls, CommitCalls, SpaceCalls, CollectionCalls, EmbeddedCalls):
    """A connection to one Hub with the token that was issued for it. Created by :func:`connect`."""


def connect(target: Target) -> Hub:
    """A connection to ``target``'s Hub. Nothing is sent yet.

    The token is bound to the endpoint. Without one, requests carry none: the user's own login is not used. The embedded
    Hub stores files by LFS, so uploads by Xet are switched off in this process when it is the target.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from hubkit import __version__

    if target.embedded:
        private_api.disable_xet()
    disable_progress_bars()
    with translated(target.endpoint):
        install(target.endpoint, target.token, renewal(target))
    api = HfApi(
        endpoint=target.endpoint,
        token=target.token or False,
        library_name="hubkit",
        library_version=__version__,
    )
    return Hub(target, api)
