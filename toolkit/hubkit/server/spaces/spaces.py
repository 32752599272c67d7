"""The Spaces of a Hub: a supervisor for each, and their state as clients read it."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from hubkit.core.processes.logs import log_tail
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.store import Repo, Store
from hubkit.server.spaces.data import Setting, SpaceData
from hubkit.server.spaces.policy import Mode, Policy
from hubkit.server.spaces.supervisor import Order, Supervisor
from hubkit.server.storage.folder import Folder

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

    def __init__(self, folder: Folder, data: SpaceData, store: Store, lfs: LfsStore) -> None:
        self._folder, self.data, self._store, self._lfs = folder, data, store, lfs
        self._known: dict[str, Supervisor] = {}
        self._lock = threading.Lock()
        self._url = ""
        self.policy = Policy(folder.root)
        self.closing = False

    def start(self, url: str, mode: Mode | None = None) -> None:
        """Start every Space that is not paused, without waiting for any; apps find the Hub at ``url``.

        ``mode`` says whether Spaces are run, from now on; None: as the last time.
        """
        if mode:
            self.data.set_mode(mode)
        self.policy = Policy(self._folder.root, self.data.mode())
        self._url = url
        for repo in self._store.all("space"):
            self.changed(repo)

    def end_soon(self) -> None:
        """The Hub is about to stop: end the responses that follow a log."""
        self.closing = True

    def close(self) -> None:
        """End every app; returns when they have ended, or after eight seconds."""
        with self._lock:
            self.closing, self._url = True, ""
            supervisors = list(self._known.values())
        for supervisor in supervisors:
            supervisor.order("close")
        deadline = time.monotonic() + _CLOSE_SECONDS
        for supervisor in supervisors:
            supervisor.join(max(0.0, deadline - time.monotonic()))

    def _order(self, repo: Repo, what: Order) -> None:
        with self._lock:
            if not self._url:
                return
            supervisor = self._known.get(repo.uid)
            if supervisor is None:
                folder = self._folder.spaces / repo.uid
                supervisor = Supervisor(repo.uid, folder, self._url, self.data, self._store, self._lfs, self.policy)
                self._known[repo.uid] = supervisor
        supervisor.order(what)

    # Events and orders ---------------------------------------------------------------------------------------

    def changed(self, repo: Repo, ref: str = MAIN) -> None:
        """Build and start a Space again, unless paused: for when a ref of a repo or a setting of a Space changed."""
        if repo.type == "space" and ref == MAIN and not self.data.paused(repo.uid):
            self._order(repo, "build")

    def set(self, repo: Repo, settings: list[Setting]) -> None:
        """Give a new Space its settings."""
        for setting in settings:
            self.data.put(repo.uid, setting)

    def removed(self, repo: Repo) -> None:
        """End the app of a deleted Space, then delete its folder."""
        if repo.type == "space":
            self._order(repo, "remove")
            with self._lock:
                self._known.pop(repo.uid, None)

    def pause(self, repo: Repo) -> None:
        """Stop the app until a restart is requested; the Space stays paused when the Hub starts again."""
        self.data.pause(repo.uid, True)
        self._order(repo, "pause")

    def restart(self, repo: Repo, *, factory: bool = False) -> None:
        """Build and start the Space again, paused or not; ``factory``: reinstall its requirements too."""
        self.data.pause(repo.uid, False)
        self._order(repo, "rebuild" if factory else "build")

    # State -------------------------------------------------------------------------------------------------------

    def stage(self, repo: Repo) -> str:
        """Its stage, as the Hub names them."""
        supervisor = self._known.get(repo.uid)
        return supervisor.stage if supervisor else "PAUSED" if self.data.paused(repo.uid) else "STOPPED"

    def runtime(self, repo: Repo) -> dict[str, Any]:
        """The runtime that clients read: stage, hardware, the commit, ``errorMessage`` when it does not run."""
        supervisor = self._known.get(repo.uid)
        stage = self.stage(repo)
        sleep = self.data.sleep_time(repo.uid)
        value: dict[str, Any] = {
            "stage": stage, "hardware": {"current": _HARDWARE if stage.startswith("RUNNING") else None,
            "requested": _HARDWARE}, "storage": None, "gcTimeout": _SLEEP_SECONDS if sleep is None else sleep,
            "replicas": {"current": int(stage.startswith("RUNNING")), "requested": 1}, "devMode": False,
        }  # fmt: skip
        if supervisor and supervisor.sha:
            value["sha"] = supervisor.sha
        if supervisor and supervisor.error:
            value["errorMessage"] = supervisor.error
        if host := self.host(repo):
            value["domains"] = [{"domain": host.removeprefix("http://"), "stage": "READY"}]
        return value

    def warning(self, repo: Repo) -> str | None:
        """What readers of its page are told about an app that nothing confines."""
        if self.policy.refusal(self._folder.spaces / repo.uid):
            return None
        return self.policy.warning(self._folder.spaces / repo.uid)

    def host(self, repo: Repo) -> str | None:
        """The address of the app while it runs or is being started; else None."""
        port = self.data.port(repo.uid) if self.stage(repo) in _REACHABLE else None
        return f"http://localhost:{port}" if port else None

    def subdomain(self, repo: Repo) -> str:
        """``user-name``: what the real Hub makes an app's address from."""
        return re.sub(r"[^a-z0-9]+", "-", f"{repo.namespace}-{repo.name}".lower()).strip("-")

    def info(self, repo: Repo) -> dict[str, Any]:
        """The fields of a Space's info that other repos do not have."""
        return {"runtime": self.runtime(repo), "host": self.host(repo), "subdomain": self.subdomain(repo)}

    def tail(self, repo: Repo, which: str, lines: int = 100) -> list[str]:
        """The last lines of the ``run`` or the ``build`` log."""
        return log_tail(self._folder.spaces / repo.uid / f"{which}.log", lines)
