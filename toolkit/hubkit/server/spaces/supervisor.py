"""The supervisor of one Space: a thread that builds, starts, watches and stops its app, one order at a time.

A newer order interrupts an older one. An app that exits is started again by a commit, a changed setting, a restart,
or a start of the Hub, and not by itself.
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
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.store import Repo, Store
from hubkit.server.spaces import build
from hubkit.server.spaces.build import Failure, Plan, append_line
from hubkit.server.spaces.data import SpaceData
from hubkit.server.spaces.policy import Policy
from hubkit.server.spaces.requirements import REQUIREMENTS

log = logging.getLogger("hubkit.server.spaces")
Order = Literal["build", "rebuild", "pause", "remove", "close"]
_FINAL = ("remove", "close")
_WATCH_SECONDS = 0.3
_GRACE_SECONDS = 2.0
_INSTALL_SECONDS = 1800.0
_INSTALLED = "installed-"


class _Newer(Exception):
    """There is a newer order."""


class Supervisor:
    """The Space of the repo with the internal id ``uid``; its files are in ``folder``."""

    def __init__(
        self, uid: str, folder: Path, url: str, data: SpaceData, store: Store, lfs: LfsStore,
        policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.uid, self.folder, self._url = uid, folder, url
        self._policy = policy or Policy(folder.parent.parent)
        self._data, self._store, self._lfs = data, store, lfs
        self._turn = threading.Condition()
        self._order: Order | None = None
        self._thread: threading.Thread | None = None
        self._app: App | None = None
        self._up = False
        self.stage, self.error, self.sha = "STOPPED", "", ""

    def log(self, which: str) -> Path:
        """The path of the ``run`` or the ``build`` log."""
        return self.folder / f"{which}.log"

    def order(self, what: Order) -> None:
        """Carry out an order; it interrupts the one that is being carried out. The stage changes at once."""
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
                self.stage, self.error = "RUNTIME_ERROR", "The Hub failed to run this Space; see the Hub's log."

    def _loop(self) -> None:
        for pid, created in self._data.children(self.uid):
            end_leftover(pid, created)
            self._data.drop_child(pid)
        while True:
            order = self._next()
            try:
                if order in ("build", "rebuild"):
                    self._rebuild(fresh=order == "rebuild")
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
                self._fail("RUNTIME_ERROR", "The Hub failed to run this Space; see the Hub's log.")
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
        """Set the stage; _Newer when there is a newer order, which has set it already."""
        with self._turn:
            if self._order:
                raise _Newer
            self.stage, self.error = stage, ""

    def _fail(self, stage: str, message: str) -> None:
        """Stop the app, then set the stage of a failure; only a new order changes it."""
        self._end_app()
        with self._turn:
            if not self._order:
                self.stage, self.error = stage, message

    def _sleep(self, seconds: float = 0.2) -> None:
        """Sleep; _Newer as soon as there is a newer order."""
        with self._turn:
            if self._turn.wait_for(lambda: self._order, seconds):
                raise _Newer

    def _rebuild(self, *, fresh: bool) -> None:
        """Build the head of ``main``, then replace the running app. ``fresh``: reuse nothing of earlier builds."""
        repo = self._store.by_uid(self.uid)
        git = self._store.git(repo) if repo else None
        head = git.target("refs/heads/main") if git else None
        if repo is None or git is None or head is None:
            raise Failure("STOPPED", "The repo was deleted or has no branch main.")
        if fresh or head == self.sha:
            self._end_app()  # a restart: there is no new version to wait for
            self._set("BUILDING")
        if self.folder.is_symlink():
            raise Failure("RUNTIME_ERROR", "The folder of this Space is a link. Remove it, then restart the Space.")
        self.folder.mkdir(exist_ok=True)
        _remove_log(self.log("build"))
        append_line(self.log("build"), f"Building commit {head}.")
        try:
            if refusal := self._policy.refusal(self.folder):
                raise Failure("STOPPED", refusal)
            if warning := self._policy.warning(self.folder):
                append_line(self.log("build"), warning)
            plan = build.read_plan(git, head)
            target = self.folder / head
            if self._data.port(self.uid) is None:
                self._data.usable_port(self.uid)  # so that clients see its address while it is built
            for remark in plan.remarks:
                append_line(self.log("build"), remark)
            build.checkout(git, head, self.uid, self._lfs, target)
            python = self._prepare(target, fresh=fresh)
        except Failure as failure:
            self.sha = head
            append_line(self.log("build"), failure.message)
            raise
        self._sleep(0)
        append_line(self.log("build"), "Built.")
        self._end_app()
        self.sha = head
        self._tidy(target, python)
        self._start(repo, plan, target, python)

    def _prepare(self, target: Path, *, fresh: bool) -> Path:
        """The interpreter with the requirements; missing ones are installed in an environment of this Space."""
        required, log_file = build.requirements(target), self.log("build")
        if not (missing := required.unmet()):
            count = len(required.requirements())
            append_line(log_file, f"{count} requirements, all installed." if count else "No requirements.")
            return Path(sys.executable)
        place = self.folder / f"venv-{required.key(target.name)}"
        done = _marker(place)
        if fresh or not done.exists():
            append_line(log_file, f"Installing: {', '.join(missing)}.")
            done.unlink(missing_ok=True)
            python = build.make_environment(place)
            self._install(python, target, build.write_requirements(target, required))
            done.touch()
        return place / "bin" / "python"

    def _install(self, python: Path, target: Path, files: list[str]) -> None:
        """Install what the ``files`` name, confined as the app is: to install is to run their authors' code."""
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input", "--progress-bar=off"]
        command += ["--disable-pip-version-check", *files]
        home = self.folder / "home"
        child = App.run(
            command, folder=target, port=0, environment=environment(home, 0, {}), log=self.log("build"),
            reach=self._policy.reach(write=(python.parent.parent,)),
        )  # fmt: skip
        deadline = time.monotonic() + _INSTALL_SECONDS
        try:
            self._data.add_child(self.uid, child.pid, child.created)
            while (code := child.code()) is None:
                self._sleep()
                if time.monotonic() > deadline:
                    raise Failure("BUILD_ERROR", f"{REQUIREMENTS} was not installed in {_INSTALL_SECONDS:g} s.")
        finally:
            child.stop(0.5)
            self._data.drop_child(child.pid)
        if code:
            lines = log_tail(self.log("build"))
            errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:] or [f"pip ended with {code}"]
            raise Failure("BUILD_ERROR", f"{REQUIREMENTS} cannot be installed: {errors[-1].removeprefix('ERROR: ')}")

    def _tidy(self, target: Path, python: Path) -> None:
        """Remove the checkouts and environments of earlier builds."""
        place = python.parent.parent
        for path in self.folder.iterdir():
            old = len(path.name.partition(".")[0]) == 40 or path.name.startswith(("venv-", _INSTALLED))
            if old and path not in (target, place, _marker(place)):
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    def _start(self, repo: Repo, plan: Plan, target: Path, python: Path) -> None:
        """Start the app and wait until it answers."""
        self._set("APP_STARTING")
        _remove_log(self.log("run"))
        port = self._data.usable_port(self.uid)
        secrets = self._data.values(self.uid, secret=True)
        if warning := self._policy.warning(self.folder):
            append_line(self.log("run"), warning)
        own = python.parent.parent
        try:
            self._app = App.start(
                target, plan.app_file, port=port, python=python, log=self.log("run"),
                environment=environment(self.folder / "home", port, self._space_environment(repo, plan, port, secrets)),
                hide=secrets.values(), reach=self._policy.reach(read=(own,) if own.parent == self.folder else ()),
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
            self._sleep()
        if not self._app.guard():
            raise Failure(
                "RUNTIME_ERROR", f"Another program listens on [::1]:{port}; browsers would mistake it for the app."
            )
        self._set("RUNNING")
        self._up = True

    def _space_environment(self, repo: Repo, plan: Plan, port: int, secrets: dict[str, str]) -> dict[str, str]:
        """The variables of an app beyond the usual: its Space, its Hub, its variables and secrets.

        ``SYSTEM=spaces`` is not set: Gradio would believe that it runs on the real Hub, and reload apps through
        a library of that Hub.
        """
        variables = {
            "SPACE_ID": repo.id, "SPACE_AUTHOR_NAME": repo.namespace, "SPACE_REPO_NAME": repo.name,
            "SPACE_TITLE": plan.title or repo.name, "SPACE_HOST": f"localhost:{port}",
            "HF_ENDPOINT": self._url,
        }  # fmt: skip
        if "HF_TOKEN" not in secrets:
            variables["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        return variables | self._data.values(self.uid, secret=False) | secrets

    def _ended(self, code: int) -> str:
        """The error message of an app that exited."""
        try:
            how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        except ValueError:
            how = f"by signal {-code}"
        lines = [line.strip() for line in log_tail(self.log("run")) if line.strip()]
        return f"The app ended {how}: {lines[-1][:500]}" if lines else f"The app ended {how} without output."

    def _end_app(self) -> None:
        app, self._app, self._up = self._app, None, False
        if app:
            app.stop(_GRACE_SECONDS)
            with contextlib.suppress(sqlite3.Error):  # no room, or closed already; a stale line does no harm
                self._data.drop_child(app.pid)


def _marker(place: Path) -> Path:
    """The file that says that the environment ``place`` is complete. What is installed there cannot write it."""
    return place.with_name(place.name.replace("venv-", _INSTALLED))


def _remove_log(path: Path) -> None:
    for half in (path, older(path)):
        half.unlink(missing_ok=True)
