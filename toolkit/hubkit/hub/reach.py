"""Quick connectivity check of a Hub, without a token."""

from __future__ import annotations

import socket
import threading
from urllib.request import getproxies, proxy_bypass

from hubkit.core.errors import RemoteError
from hubkit.hub.errors import unreachable
from hubkit.hub.transport import LOCAL_HOSTS


def reach(endpoint: str, seconds: float = 1.5) -> None:
    """RemoteError unless somebody listens at ``endpoint``, or its proxy passes a request on, within ``seconds``.

    Asked before anything is begun, so it is short and sends no token. A Hub that listens may take longer to answer.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise RemoteError(
            f"HF_HUB_OFFLINE is set, so no request was sent to {endpoint}.",
            hint="Unset HF_HUB_OFFLINE and run the same command again.",
        )
    proxy = _proxy_for(endpoint)
    failed: list[Exception] = []

    def look() -> None:
        try:
            _look(endpoint, seconds, proxy)
        except Exception as error:
            failed.append(error)

    # In a thread: nothing bounds the time that a machine without a network looks for the address of a name.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds + 0.2)
    if thread.is_alive() or failed:
        cause = failed[0] if failed else TimeoutError(f"no answer within {seconds:g} s")
        raise unreachable(f"{endpoint} (through the proxy {proxy})" if proxy else endpoint, cause) from cause


def _proxy_for(endpoint: str) -> str | None:
    """``host:port`` of the proxy that a request to ``endpoint`` goes through (no password is shown)."""
    import httpx2

    url = httpx2.URL(endpoint)
    proxy = getproxies().get(url.scheme) or getproxies().get("all")
    if not proxy or url.host in LOCAL_HOSTS or proxy_bypass(url.host):
        return None
    return httpx2.URL(proxy).netloc.decode()


def _look(endpoint: str, seconds: float, proxy: str | None) -> None:
    import httpx2

    if proxy:
        httpx2.head(endpoint, timeout=seconds)
    else:
        url = httpx2.URL(endpoint)
        socket.create_connection((url.host, url.port or {"https": 443}.get(url.scheme, 80)), seconds).close()
