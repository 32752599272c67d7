"""The Spaces of a Hub: which run, where, and what is told of them."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from hubkit.core.processes.logs import log_tail
from hubkit.server.folder import Folder
from hubkit.server.objects import Objects
from hubkit.server.spacedata import SpaceData
from hubkit.server.store import Repo, Store
from hubkit.server.supervisor import Order, Supervisor

MAIN = "refs/heads/main"
_CLOSE_SECONDS = 8.0
_REACHABLE = frozenset(["BUILDING", "APP_STARTING", "RUNNING", "RUNNING_BUILDING", "RUNNING_APP_STARTING"])
_HARDWARE = "cpu-basic"
_SLEEP_SECONDS = 48 * 3600


class Spaces:
    """Runs the Spaces of one data folder, from :meth:`start` to :meth:`close`.

    An app is reached as ``http://localhost:PORT`` while the Hub is ``http://127.0.0.1:PORT``: for a browser these are
    two sites, so that nothing of an app has the cookies or the rights of the Hub's pages.
    """

    def __init__(self, folder: Folder, data: SpaceData, store: Store, objects: Objects) -> None:
        self._folder, self.data, self._store, self._objects = folder, data, store, objects
        self._known: dict[str, Supervisor] = {}
        self._lock = threading.Lock()
        self._url = ""
        self.closing = False

    def start(self, url: str) -> None:
        """Start every Space that is not paused, without waiting for any; apps find the Hub at ``url``."""
        self._url = url
        for repo in self._store.all("space"):
            self.changed(repo)

    def end_soon(self) -> None:
        """Take no more orders, and let the readers of logs go: the Hub is about to stop."""
        self.closing = True

    def close(self) -> None:
        """End every app; returns when they have ended, or after eight seconds."""
        with self._lock:
            self.closing, self._url = True, ""
            known = list(self._known.values())
        for one in known:
            one.order("close")
        deadline = time.monotonic() + _CLOSE_SECONDS
        for one in known:
            one.join(max(0.0, deadline - time.monotonic()))

    def _order(self, repo: Repo, what: Order) -> None:
        with self._lock:
            if not self._url:
                return
            one = self._known.get(repo.uid)
            if one is None:
                folder = self._folder.spaces / repo.uid
                one = Supervisor(repo.uid, folder, self._url, self.data, self._store, self._objects)
                self._known[repo.uid] = one
        one.order(what)

    # What makes a Space run, or not ---------------------------------------------------------------------------

    def changed(self, repo: Repo, ref: str = MAIN) -> None:
        """Call it when a ``ref`` of a repo was moved, or a setting changed: a Space that is not paused is run anew."""
        if repo.type == "space" and ref == MAIN and not self.data.paused(repo.uid):
            self._order(repo, "build")

    def removed(self, repo: Repo) -> None:
        """Call it when a repo was deleted: its app ends, then its folder goes."""
        if repo.type == "space":
            self._order(repo, "remove")
            with self._lock:
                self._known.pop(repo.uid, None)

    def pause(self, repo: Repo) -> None:
        """End the app; it stays so, across starts of the Hub too, until a restart is asked for."""
        self.data.pause(repo.uid, True)
        self._order(repo, "pause")

    def restart(self, repo: Repo, *, factory: bool = False) -> None:
        """Run the Space anew, paused or not; ``factory``: what was installed for it is installed again."""
        self.data.pause(repo.uid, False)
        self._order(repo, "rebuild" if factory else "build")

    # What is told of it ------------------------------------------------------------------------------------------

    def stage(self, repo: Repo) -> str:
        """Its stage, as the Hub names them."""
        one = self._known.get(repo.uid)
        return one.stage if one else "PAUSED" if self.data.paused(repo.uid) else "STOPPED"

    def runtime(self, repo: Repo) -> dict[str, Any]:
        """What ``get_space_runtime`` shows: stage, hardware, the commit, and ``errorMessage`` when it does not run."""
        one = self._known.get(repo.uid)
        stage = self.stage(repo)
        sleep = self.data.sleep_time(repo.uid)
        value: dict[str, Any] = {
            "stage": stage, "hardware": {"current": _HARDWARE if stage.startswith("RUNNING") else None,
            "requested": _HARDWARE}, "storage": None, "gcTimeout": _SLEEP_SECONDS if sleep is None else sleep,
            "replicas": {"current": int(stage.startswith("RUNNING")), "requested": 1}, "devMode": False,
        }  # fmt: skip
        if one and one.sha:
            value["sha"] = one.sha
        if one and one.error:
            value["errorMessage"] = one.error
        if host := self.host(repo):
            value["domains"] = [{"domain": host.removeprefix("http://"), "stage": "READY"}]
        return value

    def host(self, repo: Repo) -> str | None:
        """Where the app is reached while it runs or is being started; else None."""
        port = self.data.port(repo.uid) if self.stage(repo) in _REACHABLE else None
        return f"http://localhost:{port}" if port else None

    def subdomain(self, repo: Repo) -> str:
        """``user-name``: what the real Hub makes an app's address from."""
        return re.sub(r"[^a-z0-9]+", "-", f"{repo.namespace}-{repo.name}".lower()).strip("-")

    def info(self, repo: Repo) -> dict[str, Any]:
        """What a Space's info has beside that of any repo."""
        return {"runtime": self.runtime(repo), "host": self.host(repo), "subdomain": self.subdomain(repo)}

    def tail(self, repo: Repo, which: str, lines: int = 100) -> list[str]:
        """The last lines of the ``run`` or the ``build`` log."""
        return log_tail(self._folder.spaces / repo.uid / f"{which}.log", lines)
