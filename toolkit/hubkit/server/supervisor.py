"""One Space that runs: a thread that builds it, starts it, watches it and ends it, one order at a time.

A newer order interrupts what an older one is at. An app that ends by itself is not started again before somebody
asks for it: by a commit, a changed setting, a restart, or a start of the Hub.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from hubkit.core.errors import HubkitError
from hubkit.core.processes.app import App, end_leftover, environment
from hubkit.core.processes.logs import log_tail, older
from hubkit.server import spacebuild
from hubkit.server.objects import Objects
from hubkit.server.spacebuild import REQUIREMENTS, Failure, Plan, say
from hubkit.server.spacedata import SpaceData
from hubkit.server.store import Repo, Store

log = logging.getLogger("hubkit.server.spaces")
Order = Literal["build", "rebuild", "pause", "remove", "close"]
_FINAL = ("remove", "close")
_WATCH_SECONDS = 0.3
_GRACE_SECONDS = 2.0
_INSTALL_SECONDS = 1800.0


class _Newer(Exception):
    """There is a newer order."""


class Supervisor:
    """The Space of the repo with the internal id ``uid``; its files are in ``folder``."""

    def __init__(self, uid: str, folder: Path, url: str, data: SpaceData, store: Store, objects: Objects) -> None:
        self.uid, self.folder, self._url = uid, folder, url
        self._data, self._store, self._objects = data, store, objects
        self._turn = threading.Condition()
        self._order: Order | None = None
        self._thread: threading.Thread | None = None
        self._app: App | None = None
        self._up = False
        self.stage, self.error, self.sha = "STOPPED", "", ""

    def log(self, which: str) -> Path:
        """Where the ``run`` or the ``build`` log lies."""
        return self.folder / f"{which}.log"

    def order(self, what: Order) -> None:
        """Have it done, in place of what is being done. The stage says so at once."""
        with self._turn:
            if self._order in _FINAL:
                return
            if what == "build" and self._order == "rebuild":
                what = "rebuild"
            self._order = what
            if what == "pause":
                self.stage, self.error = "PAUSED", ""
            elif what in ("build", "rebuild"):
                self.stage, self.error = "RUNNING_BUILDING" if self._up else "BUILDING", ""
                _remove_log(self.log("build"))
            self._turn.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"space {self.uid}", daemon=True)
                self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until its thread has ended."""
        if self._thread:
            self._thread.join(timeout)

    # The thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._loop()
        except Exception:  # of the database, of the system: the next order gets a new thread
            log.exception("the supervisor of the Space %s ended", self.uid)
            with self._turn:
                self._thread, self._order = None, None
                self.stage, self.error = "RUNTIME_ERROR", "The Hub failed to run this Space; the Hub's log says why."

    def _loop(self) -> None:
        for pid, created in self._data.children(self.uid):
            end_leftover(pid, created)
            self._data.drop_child(pid)
        while True:
            order = self._next()
            try:
                if order in ("build", "rebuild"):
                    self._renew(fresh=order == "rebuild")
                    continue
            except _Newer:
                if not self._up:
                    self._end_app()
                continue
            except Failure as failure:
                self._fail(failure.stage, failure.message)
                continue
            except Exception:
                log.exception("the Space %s cannot be run", self.uid)
                self._fail("RUNTIME_ERROR", "The Hub failed to run this Space; the Hub's log says why.")
                continue
            self._end_app()
            if order == "remove":
                shutil.rmtree(self.folder, ignore_errors=True)
            if order in _FINAL:
                return

    def _next(self) -> Order:
        """Wait for an order, and watch the app meanwhile."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._order, _WATCH_SECONDS if self._app else None)
                if self._order:
                    order = self._order
                    if order not in _FINAL:
                        self._order = None
                    return order
            if self._app and (code := self._app.code()) is not None:
                self._fail("RUNTIME_ERROR", self._ended(code))

    def _set(self, stage: str) -> None:
        """Enter a stage, unless there is a newer order, which has set it already: then _Newer."""
        with self._turn:
            if self._order:
                raise _Newer
            self.stage, self.error = stage, ""

    def _fail(self, stage: str, message: str) -> None:
        """End what runs; then enter a stage that needs a new order to get out of."""
        self._end_app()
        with self._turn:
            if not self._order:
                self.stage, self.error = stage, message

    def _pass(self, seconds: float = 0.2) -> None:
        """Let time pass; _Newer as soon as there is a newer order."""
        with self._turn:
            if self._turn.wait_for(lambda: self._order, seconds):
                raise _Newer

    def _renew(self, *, fresh: bool) -> None:
        """Build the head of ``main``, then run it in place of what runs. ``fresh``: with nothing of earlier builds."""
        repo = self._store.by_uid(self.uid)
        git = self._store.git(repo) if repo else None
        head = git.target("refs/heads/main") if git else None
        if repo is None or git is None or head is None:
            raise Failure("STOPPED", "The repo is gone.")
        if fresh or head == self.sha:
            self._end_app()  # a restart: there is no new version to wait for
            self._set("BUILDING")
        self.folder.mkdir(exist_ok=True)
        _remove_log(self.log("build"))
        say(self.log("build"), f"Building commit {head}.")
        try:
            plan = spacebuild.read_plan(git, head)
            target = self.folder / head
            if self._data.port(self.uid) is None:
                self._data.usable_port(self.uid)  # so that its address is known while it is built
            for remark in plan.remarks:
                say(self.log("build"), remark)
            spacebuild.checkout(git, head, self.uid, self._objects, target)
            python = self._prepare(target, fresh=fresh)
        except Failure as failure:
            self.sha = head
            say(self.log("build"), failure.message)
            raise
        self._pass(0)
        say(self.log("build"), "Built.")
        self._end_app()
        self.sha = head
        self._tidy(target, python)
        self._start(repo, plan, target, python)

    def _prepare(self, target: Path, *, fresh: bool) -> Path:
        """The interpreter that has what the requirements ask for; what is missing is installed for this Space alone."""
        lines, build = spacebuild.wanted_lines(target), self.log("build")
        if not (missing := spacebuild.missing(lines)):
            say(build, f"{len(lines)} requirements, all installed." if lines else "No requirements.")
            return Path(sys.executable)
        place = self.folder / f"venv-{spacebuild.environment_key(lines, target.name)}"
        done = place / "done"
        if fresh or not done.exists():
            say(build, f"To be installed: {', '.join(missing)}.")
            python = spacebuild.make_environment(place)
            self._install(python, target)
            done.touch()
        return place / "bin" / "python"

    def _install(self, python: Path, target: Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input", "--progress-bar=off"]
        command += ["--disable-pip-version-check", "-r", REQUIREMENTS]
        home = self.folder / "home"
        child = App.run(command, folder=target, port=0, environment=environment(home, 0, {}), log=self.log("build"))
        deadline = time.monotonic() + _INSTALL_SECONDS
        try:
            self._data.add_child(self.uid, child.pid, child.created)
            while (code := child.code()) is None:
                self._pass()
                if time.monotonic() > deadline:
                    raise Failure("BUILD_ERROR", f"{REQUIREMENTS} was not installed in {_INSTALL_SECONDS:g} s.")
        finally:
            child.stop(0.5)
            self._data.drop_child(child.pid)
        if code:
            said = log_tail(self.log("build"))
            errors = [line for line in said if line.startswith("ERROR: ")] or said[-1:] or [f"pip ended with {code}"]
            raise Failure("BUILD_ERROR", f"{REQUIREMENTS} cannot be installed: {errors[-1].removeprefix('ERROR: ')}")

    def _tidy(self, target: Path, python: Path) -> None:
        """Remove the checkouts and environments of earlier builds."""
        for path in self.folder.iterdir():
            old = path != target and (len(path.name.partition(".")[0]) == 40 or path.name.startswith("venv-"))
            if old and not python.is_relative_to(path):
                shutil.rmtree(path, ignore_errors=True)

    def _start(self, repo: Repo, plan: Plan, target: Path, python: Path) -> None:
        """Start the app and wait until it answers."""
        self._set("APP_STARTING")
        _remove_log(self.log("run"))
        port = self._data.usable_port(self.uid)
        secrets = self._data.values(self.uid, secret=True)
        try:
            self._app = App.start(
                target, plan.app_file, port=port, python=python, log=self.log("run"),
                environment=environment(self.folder / "home", port, self._more(repo, plan, port, secrets)),
                hide=secrets.values(),
            )  # fmt: skip
        except HubkitError as error:
            raise Failure("RUNTIME_ERROR", error.message) from error
        self._data.add_child(self.uid, self._app.pid, self._app.created)
        deadline = time.monotonic() + plan.startup_seconds
        while not self._app.answers():
            if (code := self._app.code()) is not None:
                raise Failure("RUNTIME_ERROR", self._ended(code))
            if time.monotonic() > deadline:
                raise Failure(
                    "RUNTIME_ERROR",
                    f"{plan.app_file} did not listen on port {port} within {plan.startup_seconds:g} s.",
                )
            self._pass()
        if not self._app.guard():
            raise Failure(
                "RUNTIME_ERROR", f"Another program listens on [::1]:{port}; browsers would take it for the app."
            )
        self._set("RUNNING")
        self._up = True

    def _more(self, repo: Repo, plan: Plan, port: int, secrets: dict[str, str]) -> dict[str, str]:
        """What the environment of an app has beside the usual: who it is, its Hub, its variables and secrets.

        ``SYSTEM=spaces`` is not in it: by that Gradio takes the machine for the real Hub's and wants to reload apps
        through a library of that Hub's.
        """
        more = {
            "SPACE_ID": repo.id, "SPACE_AUTHOR_NAME": repo.namespace, "SPACE_REPO_NAME": repo.name,
            "SPACE_TITLE": plan.title or repo.name, "SPACE_HOST": f"localhost:{port}",
            "HF_ENDPOINT": self._url, "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        if "HF_TOKEN" not in secrets:
            more["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        return more | self._data.values(self.uid, secret=False) | secrets

    def _ended(self, code: int) -> str:
        """A sentence for an app that has ended by itself."""
        try:
            how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        except ValueError:
            how = f"by signal {-code}"
        said = [line.strip() for line in log_tail(self.log("run")) if line.strip()]
        return f"The app ended {how}: {said[-1][:500]}" if said else f"The app ended {how}; it said nothing."

    def _end_app(self) -> None:
        app, self._app, self._up = self._app, None, False
        if app:
            app.stop(_GRACE_SECONDS)
            with contextlib.suppress(sqlite3.Error):  # no room, or closed already; a stale line does no harm
                self._data.drop_child(app.pid)


def _remove_log(path: Path) -> None:
    for half in (path, older(path)):
        half.unlink(missing_ok=True)
