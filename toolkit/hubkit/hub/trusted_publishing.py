"""Trusted publishing: a CI job proves its identity and gets a token for one repo, so that no secret is stored.

The job's identity is an OIDC token that its CI service issues for this Hub (GitHub Actions by itself; any
other service sets ``HF_OIDC_ID_TOKEN``). The Hub exchanges it for a token of about an hour, when the repo trusts that
job (https://huggingface.co/docs/hub/trusted-publishers). Training may take longer, so the token is renewed in time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from hubkit.core.errors import RefusedError, RemoteError
from hubkit.core.output import hide
from hubkit.core.target import DEFAULT_ENDPOINT, Target
from hubkit.hub import private_api
from hubkit.hub.errors import explain, shortened, translated
from hubkit.hub.transport import install

_MARGIN = 300.0
"""Seconds before its end from which a token is not used any more; a quarter of its life, when that is less."""

_identities: dict[tuple[str, str], _Identity] = {}


class _Identity:
    """The identity of this job for one repo of one Hub."""

    def __init__(self, endpoint: str, repo: str) -> None:
        self.endpoint, self.repo = endpoint, repo
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def token(self) -> str:
        """A token that is valid for a while yet."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._exchange()
            return self._token

    def _exchange(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError, OIDCError

        given = os.environ.get("HF_OIDC_ID_TOKEN") or None
        request = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", "")
        secret = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        if given is None and not (request and secret):
            raise RefusedError(
                f"There is no token for {self.endpoint}, and this job has no permission to prove its identity.",
                hint=f"Give the job `permissions: id-token: write`, and let {self.repo} trust it (Trusted Publishers in"
                " its settings); or set HF_TOKEN.",
            )
        try:
            if given is None:
                with translated(request.partition("?")[0]):
                    install(request, secret)
                    given = private_api.oidc_token(self.endpoint)
            hide(given)
            began = time.monotonic()
            answer = private_api.exchange_oidc_token(given, self.repo, self.endpoint)
            self._token, lives = str(answer["access_token"]), float(answer.get("expires_in", 3600))
        except HfHubHTTPError as error:
            if error.response.status_code not in {400, 401, 403, 404}:
                raise explain(error, self.endpoint, self.repo) or error from error
            words = shortened(str(error.server_message or ""))
            reason = f" Its message: {words}." if words else ""
            raise RefusedError(
                f"{self.endpoint} refused this job a token for {self.repo}.{reason}",
                hint=f"Let {self.repo} trust this workflow: Trusted Publishers in its settings.",
            ) from error
        except (OIDCError, KeyError, TypeError, ValueError) as error:
            raise RemoteError(f"Trusted publishing failed: {shortened(str(error))}.") from error
        hide(self._token)
        self._until = began + lives - min(_MARGIN, lives / 4)


def has_identity() -> bool:
    """Whether this process runs in a CI job that can, or could, prove its identity."""
    return os.environ.get("GITHUB_ACTIONS") == "true" or bool(os.environ.get("HF_OIDC_ID_TOKEN"))


def signed_in(target: Target, repo: str) -> Target:
    """``target`` with a token for ``repo`` from the job's identity, when it has none and this is a CI job.

    RefusedError when the job lacks the permission, or when the Hub does not trust it. A token from
    ``HF_OIDC_ID_TOKEN`` was issued for one Hub, so another one gets it only when ``HF_ENDPOINT`` names it.
    """
    if target.token or target.embedded or not has_identity():
        return target
    named = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
    if os.environ.get("HF_OIDC_ID_TOKEN") and target.endpoint != named:
        return target
    with translated(target.endpoint, repo):
        install(target.endpoint, None)
        token = _identity(target.endpoint, repo).token()
    return replace(target, token=token, trusted=repo)


def renewal(target: Target) -> Callable[[], str] | None:
    """How ``target``'s token is renewed; None for one that is not a CI job's."""
    return _identity(target.endpoint, target.trusted).token if target.trusted else None


def _identity(endpoint: str, repo: str) -> _Identity:
    return _identities.setdefault((endpoint, repo), _Identity(endpoint, repo))
