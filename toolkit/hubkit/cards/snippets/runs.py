"""Runs the code blocks of cards in processes of :mod:`hubkit.cards.snippets.forkserver`, and reports each result."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from hubkit.cards.snippets import forkserver
from hubkit.cards.snippets.blocks import Block, Imports, extract, with_what_it_needs
from hubkit.cards.snippets.environment import Place
from hubkit.cards.snippets.pinned_revisions import (
    Pin,
    asks_local_server,
    names_repo,
    pinned,
    revision_of,
    serve_arguments,
    with_server,
)
from hubkit.cards.snippets.results import BlockResult
from hubkit.core.errors import HubkitError
from hubkit.core.output import hide, redact
from hubkit.core.printable import printable
from hubkit.core.processes.child import adopting_orphans
from hubkit.core.processes.parent import JsonChild, describe_end, kill_children
from hubkit.core.processes.ports import free_port

SAID_SO = "the card says that it is not run"
"""Why a block is skipped that is about a program which the release goes on without."""
_LINES = 40
"""Lines of a block's output that are told, the last ones."""
_WIDTH = 500
_GRACE = 30.0
"""Seconds beyond a block's own limit after which the process that runs it is taken for dead."""
_SERVER = ("transformers.cli.serve", "transformers.cli.serving.server", "transformers.cli.transformers")


@dataclass(frozen=True)
class Limits:
    """``seconds`` of the clock for a block, and for a server to come up; ``memory`` in bytes for each process.

    Memory is what the system counts under RLIMIT_DATA: all that a process holds but the files that it maps. None: no
    more than the machine has.
    """

    seconds: float = 3600.0
    memory: int | None = None

    @property
    def bytes(self) -> int:
        """The limit of memory."""
        return self.memory or int(psutil.virtual_memory().total)


@dataclass(frozen=True)
class Card:
    """A card to run. With ``pin`` its branch is read at that commit; ``strict``: a block that names the pin's repo
    has to be pinned to it. A block that imports one of the modules ``not_run`` is skipped: the card says so.
    """

    path: str
    text: str
    pin: Pin | None = None
    strict: bool = False
    not_run: frozenset[str] = frozenset()


def run_cards(
    cards: Sequence[Card],
    place: Place,
    limits: Limits | None = None,
    report: Callable[[str, float], None] = lambda words, share: None,
) -> list[BlockResult]:
    """Run every Python block of ``cards``, in order; the outcomes in the same order.

    The cards share a process that imports once, and the cache of what is downloaded. HubkitError when that process
    cannot be started, or dies.
    """
    hide(place.token)
    limits = limits or Limits()
    work = [(card, blocks, index) for card in cards for blocks in [extract(card.text)] for index in range(len(blocks))]
    imports = Imports()
    for card, blocks, index in work:
        if not card.not_run & _imports([blocks[index]]):
            imports.add(blocks[index].source)
    modules = {name: sorted(names) for name, names in sorted(imports.names.items())}
    if any(_needs_server(blocks[index]) for _, blocks, index in work):
        modules |= {name: [] for name in _SERVER}
    if not work:
        return []
    found = []
    with _host(place, limits) as host:
        report("importing what the blocks import", 0.0)
        host.call({"do": "import", "modules": modules}, limits.seconds)
        for done, (card, blocks, index) in enumerate(work):
            report(f"{card.path}, block {blocks[index].number}", done / len(work))
            found.append(_Run(host, place, limits, card).block(blocks, index))
    return found


def _imports(blocks: Sequence[Block]) -> set[str]:
    """The top-level packages that ``blocks`` import."""
    imports = Imports()
    for block in blocks:
        imports.add(block.source)
    return imports.roots


def _needs_server(block: Block) -> bool:
    return asks_local_server(block.source) and serve_arguments(block.shell) is not None


@dataclass(frozen=True)
class _Run:
    """One card's blocks in the process ``host``."""

    host: _Host
    place: Place
    limits: Limits
    card: Card

    def block(self, blocks: list[Block], index: int) -> BlockResult:
        """Run one block, after those whose names it uses, and beside the server that it asks."""
        needed = [*with_what_it_needs(blocks, index)[:-1], blocks[index]]
        return replace(self._outcome(blocks[index], needed), revision=revision_of(self._pinned(needed)[-1][0]))

    def _pinned(self, needed: Sequence[Block]) -> list[tuple[str, int]]:
        """The sources of ``needed``, the branch exchanged for the commit, and how many there were in each."""
        sources, pin = [part.source for part in needed], self.card.pin
        return [pinned(text, pin, sources[:at]) if pin else (text, 0) for at, text in enumerate(sources)]

    def _outcome(self, block: Block, needed: Sequence[Block]) -> BlockResult:
        pin = self.card.pin
        if block.for_notebook:
            return self._result(block, "skipped", "it has lines that only a notebook understands")
        if self.card.not_run & _imports(needed):
            return self._result(block, "skipped", SAID_SO)
        if pin and self.card.strict and names_repo(block.source, pin.repo) and not self._pinned(needed)[-1][1]:
            return self._result(block, "failed", f"it loads {pin.repo} and is not pinned to {pin.branch!r}")
        if not any(asks_local_server(part.source) for part in needed):
            return self._run(block, needed)
        served = next((part for part in reversed(needed) if serve_arguments(part.shell) is not None), None)
        if served is None:
            return self._result(
                block, "skipped", "no `transformers serve` on the card starts the server that it queries"
            )
        log = self.place.folder / "serve.log"
        with self._server(serve_arguments(served.shell, pin) or [], log) as (url, problem):
            outcome = self._result(block, "failed", problem) if problem else self._run(block, needed, url)
        if outcome.outcome == "failed":
            output = f"{outcome.output}\nOutput of `transformers serve`:\n{_log_tail(log)}"
            return replace(outcome, output=output.strip())
        return outcome

    def _run(self, block: Block, needed: Sequence[Block], url: str | None = None) -> BlockResult:
        parts = []
        for part, (source, _) in zip(needed, self._pinned(needed), strict=True):
            parts.append({"source": with_server(source, url) if url else source, "line": part.line})
        with _folder(self.place.folder / "blocks") as folder:
            ended = self.host.call(
                {
                    "do": "run", "parts": parts, "name": self.card.path, "folder": str(folder),
                    "seconds": self.limits.seconds, "memory": self.limits.bytes,
                },
                self.limits.seconds,
            )  # fmt: skip
        output = _tail(ended["output"])
        if ended["late"]:
            return self._result(
                block, "failed", f"it did not end within {self.limits.seconds:g} s", ended["seconds"], output
            )
        if ended["code"]:
            last = output.splitlines()[-1].strip() if output else ""
            why = last or f"it ended with status {ended['code']}"
            if ended["code"] < 0:
                why = f"a signal ended it ({-ended['code']}); 9 often means that the memory was full"
            return self._result(block, "failed", why, ended["seconds"], output)
        return self._result(block, "passed", "", ended["seconds"], output)

    def _result(
        self, block: Block, outcome: Literal["passed", "failed", "skipped"], why: str, seconds: float = 0.0,
        output: str = "",
    ) -> BlockResult:  # fmt: skip
        return BlockResult(self.card.path, block.number, block.line, outcome, round(seconds, 2), why, None, output)

    @contextmanager
    def _server(self, arguments: Sequence[str], log: Path) -> Iterator[tuple[str, str]]:
        """A running ``transformers serve``: its address, and why there is none."""
        port = free_port()
        log.unlink(missing_ok=True)
        with _folder(self.place.folder / "server") as folder:
            job = {
                "do": "serve", "serve": [*arguments, "--host", "127.0.0.1", "--port", str(port)], "log": str(log),
                "folder": str(folder), "memory": self.limits.bytes,
            }  # fmt: skip
            self.host.call(job)
            try:
                yield f"http://127.0.0.1:{port}", self._await(port)
            finally:
                self.host.call({"do": "stop"})

    def _await(self, port: int) -> str:
        """'' once the server is healthy, else why it is not."""
        deadline = time.monotonic() + self.limits.seconds
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return ""
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            if (code := self.host.call({"do": "served"})["code"]) is not None:
                return f"`transformers serve` ended with status {code}"
            time.sleep(0.1)
        return f"`transformers serve` did not come up within {self.limits.seconds:g} s"


def _log_tail(log: Path) -> str:
    """The end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return _tail(file.read().decode("utf-8", "replace"))


def _tail(text: str) -> str:
    """The end of an output, without tokens, control characters and what a progress bar wrote over."""
    lines = [line.rpartition("\r")[2] for line in redact(text).replace("\r\n", "\n").split("\n")]
    kept = [printable(line)[:_WIDTH].rstrip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    return "\n".join(kept[-_LINES:])


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    import tempfile

    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as made:
        yield Path(made)


class _Host:
    """The process that runs the blocks, as its parent knows it."""

    def __init__(self, child: JsonChild, log: Path, others: set[int]) -> None:
        self._child, self._log, self._others = child, log, others
        self._began = 0.0
        with contextlib.suppress(psutil.Error):
            self._began = psutil.Process(child.pid).create_time()

    def call(self, order: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
        """Give an order and wait for the answer, ``seconds`` and a grace. HubkitError when the process is gone."""
        self._child.send(order)
        if (answer := self._child.receive(seconds + _GRACE)) is not None:
            return answer
        said = _log_tail(self._log).splitlines()
        process = self._child.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # its output ends a little before itself
        code = process.poll()
        ended = "does not answer" if code is None else f"{'was ended' if code < 0 else 'ended'} {describe_end(code)}"
        raise HubkitError(
            f"The process that runs the card's blocks {ended}.{f' Last output: {said[-1]}' if said else ''}",
            hint="Run the same command again; signal 9 often means that the machine ran out of memory.",
        )

    def close(self) -> None:
        """End it with all that it started: the end of its input tells it to."""
        if self._child.end(grace=5) and self._began:  # it was killed, and could not end what its blocks left
            kill_children(self._is_orphan)

    def _is_orphan(self, process: psutil.Process) -> bool:
        """Whether ``process`` is what the dead process left: that became a child of this one (``adopting_orphans``).

        A child that hubkit has started itself was there before, or runs in hubkit's session, which nothing that came
        from the dead process can join.
        """
        if process.pid in self._others:
            return False
        try:
            return process.create_time() >= self._began and os.getsid(process.pid) != os.getsid(0)
        except (OSError, psutil.Error):
            return False


@contextmanager
def _host(place: Place, limits: Limits) -> Iterator[_Host]:
    log = place.folder / "forkserver.log"
    environment = place.environment()
    for name in ("HOME", "TMPDIR", "HF_HOME"):
        Path(environment[name]).mkdir(parents=True, exist_ok=True)
    others = {process.pid for process in psutil.Process().children()}
    with adopting_orphans(), log.open("wb") as errors:
        command = [sys.executable, "-P", str(forkserver.__file__)]
        host = _Host(JsonChild.start(command, environment=environment, folder=place.folder, errors=errors), log, others)
        try:
            yield host
        finally:
            host.close()
