"""Delivers what waits for webhooks: to programs on this machine and to nothing else, in order, each until it arrives.

An answer of 2xx within ten seconds is an arrival. No redirect is followed, and nothing of an answer is kept. Accounts
take turns, so that the slow receivers of one hold up only its own deliveries.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import sqlite3
import threading
import time
from urllib.parse import urlsplit

from hubkit import __version__
from hubkit.server.hooks.webhooks import Delivery, Webhooks, is_local

log = logging.getLogger("hubkit.server")
_SECONDS, _LONGEST_WAIT = 10.0, 60.0
_AT_ONCE, _EACH, _MOST, _SOON = 16, 2, 96, 1.0
"""Deliveries at a time: of all, and of one account. Those that wait for their receivers longer than a second do not
count among all, until there are 96: a thread that waits costs little."""


class Delivering:
    """A thread that waits for deliveries, and one for each that is being made."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._ended, self._changed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._busy: dict[str, _Post] = {}
        """What is being delivered, by its webhook."""
        self._served: dict[str, float] = {}
        """When an account last had a turn."""
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Deliver what is due; the thread is started by the first call."""
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
                self._thread.start()
        self._changed.set()

    def close(self) -> None:
        """Stop; what was not delivered waits in the database for the next start."""
        self._ended.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(_SECONDS)
        with self._lock:
            posts = list(self._busy.values())
        for post in posts:
            post.stop()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            wait = _LONGEST_WAIT
            try:
                for delivery in sorted(self._webhooks.due(), key=self._turn):
                    self._start(delivery)
                due = self._webhooks.next_due()
                if due is not None:
                    wait = min(wait, max(0.05, due - time.time()) if not self._busy else 0.5)
            except sqlite3.Error as error:
                log.warning("webhooks: %s", error)
                wait = 1.0
            self._changed.wait(wait)

    def _turn(self, delivery: Delivery) -> float:
        return self._served.get(delivery.webhook.account, 0.0)

    def _start(self, delivery: Delivery) -> None:
        """Begin a delivery, unless too many are being made; it is looked for again when one of them has ended."""
        webhook = delivery.webhook
        with self._lock:
            of_account = sum(post.delivery.webhook.account == webhook.account for post in self._busy.values())
            fresh = sum(time.monotonic() - post.begun < _SOON for post in self._busy.values())
            full = fresh >= _AT_ONCE or len(self._busy) >= _MOST or of_account >= _EACH
            if webhook.id in self._busy or full or self._ended.is_set():
                return
            post = self._busy[webhook.id] = _Post(delivery)
            self._served[webhook.account] = time.monotonic()
        threading.Thread(target=self._deliver, args=[post], name="webhook", daemon=True).start()

    def _deliver(self, post: _Post) -> None:
        webhook = post.delivery.webhook
        try:
            problem = "the address is not on this machine" if not is_local(webhook.url) else post.send()
            if problem and self._ended.is_set():
                return  # broken off by the end of the Hub: no attempt of the receiver's
            with contextlib.suppress(sqlite3.ProgrammingError):  # the Hub was closed meanwhile
                if self._webhooks.settle(post.delivery, delivered=problem is None) or problem:
                    log.warning("webhook %s, attempt %d: %s", webhook.id, post.delivery.tries + 1, problem)
        except Exception as error:
            log.warning("the webhook %s: %s", webhook.id, error)
        finally:
            with self._lock:
                self._busy.pop(webhook.id, None)
            self._changed.set()


class _Post:
    """One delivery on its way."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery, self.begun = delivery, time.monotonic()
        self._socket: socket.socket | None = None
        self._stopped = False

    def send(self) -> str | None:
        """Send it; why it did not arrive, or None. It takes ten seconds at most, however slow an answer comes."""
        parts = urlsplit(self.delivery.webhook.url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        connection = http.client.HTTPConnection(host, parts.port or 80, timeout=_SECONDS)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        timer, status, problem = threading.Timer(_SECONDS, self.stop), 0, ""
        timer.daemon = True
        timer.start()
        try:
            connection.connect()
            self._socket = connection.sock
            if not self._stopped:
                connection.request("POST", path, self.delivery.body.encode(), self._headers(parts.netloc))
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            timer.cancel()
            connection.close()
        if status:
            return None if 200 <= status < 300 else f"the receiver answered {status}"
        return f"the receiver did not answer within {_SECONDS:.0f} seconds" if self._stopped else problem

    def stop(self) -> None:
        """Break it off, whatever it waits for."""
        self._stopped = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)

    def _headers(self, netloc: str) -> dict[str, str]:
        webhook = self.delivery.webhook
        headers = {
            "Content-Type": "application/json", "User-Agent": f"hubkit/{__version__}", "Connection": "close",
            "X-Webhook-Id": webhook.id, "Host": netloc.rpartition("@")[2],
        }  # fmt: skip
        return headers | ({"X-Webhook-Secret": webhook.secret} if webhook.secret else {})
