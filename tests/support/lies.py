"""What the tests with a lying proxy share: commands run in this process, what they said, and the Hub's state on disk.

A case is one run of something with lies, judged, and the same run without lies, judged too. :func:`sweep` runs a case
for each answer of a run, and tells which of them went wrong.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pygit2
import pytest
from lying_proxy import LIES, LyingProxy, Plan, always, lying, once, truth
from soak_figures import record

from hubkit.core.files import Manifest
from hubkit.core.output import Output
from hubkit.server import process
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder

CODES = frozenset({0, 1, 2, 3, 4, 5})
"""The documented exit codes of a command that nobody interrupted."""
_NOTHING = re.compile(r"nothing (was|is) (written|overwritten|changed|promoted|published|moved)", re.IGNORECASE)
_NEVER = ("Traceback", "bug in hubkit", "Unexpected ")


@dataclass(frozen=True)
class Ended:
    """How something ended: its exit code, and all that it said."""

    code: int
    words: str


def ended(act: Callable[[], object]) -> Ended:
    """Run ``act``, and end as the command line would."""
    from hubkit.cli import _as_hubkit_error

    try:
        act()
    except Exception as error:
        failure = _as_hubkit_error(error)
        return Ended(failure.exit_code, str(failure))
    return Ended(0, "")


def command(*arguments: str) -> Ended:
    """`hubkit arguments`, in this process."""
    from hubkit import cli
    from hubkit.cli import options

    said = io.StringIO()
    argv, sys.argv = sys.argv, ["hubkit", *arguments]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            options._output = Output()
            cli.main()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return Ended(code, said.getvalue())


def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other tests measure: waits before a request is sent again, ours and the client's, and fsync."""
    from huggingface_hub.utils import _http

    class Impatient:
        """The module ``time`` without waiting."""

        def __getattr__(self, name: str) -> object:
            return getattr(__import__("time"), name)

        def sleep(self, seconds: float) -> None:
            """Go on at once."""

    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("hubkit.hub.retry._pause", lambda state: 0.0)
    monkeypatch.setattr(_http, "time", Impatient())


def git_folder(hub: Running, commit: str) -> pygit2.Repository:
    """The repo with ``commit`` in the Hub's data folder."""
    for path in Folder(hub.data).git.iterdir():
        repo = pygit2.Repository(str(path))
        if commit in repo:
            return repo
    raise AssertionError(f"no repo has {commit}")


@dataclass
class State:
    """The refs of one repo on the Hub's disk, as they were when this was made, to compare with and to go back to."""

    git: pygit2.Repository
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.refs = self._now()

    def _now(self) -> dict[str, str]:
        return {name: str(self.git.references[name].target) for name in self.git.references}

    def restore(self) -> None:
        """Put every ref back."""
        now = self._now()
        for name in now.keys() - self.refs.keys():
            self.git.references.delete(name)
        for name, target in self.refs.items():
            if now.get(name) != target:
                self.git.references.create(name, target, force=True)

    def trees(self) -> dict[str, str]:
        """The id of the tree that each ref holds now."""
        return {name: str(self.git.references[name].peel(pygit2.Commit).tree.id) for name in self.git.references}

    def tree(self, branch: str) -> str | None:
        """The id of the tree that the branch holds now; None when there is no such branch."""
        reference = self.git.references.get(f"refs/heads/{branch}")
        return str(reference.peel(pygit2.Commit).tree.id) if reference else None

    def holds(self, ref: str, files: Manifest, *, others: bool = False) -> bool:
        """Whether the branch (or ref) holds exactly ``files``, compared with the blobs on the disk or LFS pointers.

        ``others``: it may have other files too.
        """
        name = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
        reference = self.git.references.get(name)
        if reference is None:
            return False
        held = dict(self._files(reference.peel(pygit2.Commit).tree, ""))
        return (others or held.keys() == files.files.keys()) and all(
            path in held
            and (
                held[path].id == item.git or f"oid sha256:{item.sha256}\nsize {item.size}\n".encode() in held[path].data
            )
            for path, item in files.files.items()
        )

    def _files(self, tree: pygit2.Tree, folder: str) -> Iterator[tuple[str, pygit2.Blob]]:
        for item in tree:
            if isinstance(item, pygit2.Tree):
                yield from self._files(item, f"{folder}{item.name}/")
            elif isinstance(item, pygit2.Blob):
                yield f"{folder}{item.name}", item

    def commits(self, branch: str) -> int:
        """How many commits the branch has now."""
        head = self.git.references[f"refs/heads/{branch}"].target
        return sum(1 for _ in self.git.walk(head, pygit2.enums.SortMode.NONE))

    def moved(self) -> list[str]:
        """The refs that are not where they were."""
        now = self._now()
        return sorted(name for name in now.keys() | self.refs.keys() if now.get(name) != self.refs.get(name))


def untrue(end: Ended, moved: Iterable[str]) -> Iterator[str]:
    """What is wrong with the words and the exit code of ``end``, after the refs ``moved`` were moved."""
    if end.code not in CODES:
        yield f"exit code {end.code}"
    yield from (f"said {word!r}" for word in _NEVER if word in end.words)
    match = _NOTHING.search(end.words)
    if match:  # staging branches and pull requests are written before anything is promoted
        promoted = match[2].lower() in {"promoted", "published"}
        refs = [ref for ref in moved if not (promoted and ref.startswith(("refs/heads/staging/", "refs/pr/")))]
        if refs:
            yield f"said {match[0]!r}, but {', '.join(refs)} moved"


Case = Callable[[Plan], list[str]]
"""Runs everything with the lies of a plan, and once more without; returns what was wrong."""


def routes(proxy: LyingProxy, run: Callable[[], Ended], codes: Container[int] = (0,)) -> list[tuple[str, int]]:
    """Each request of a run without lies: its route, and how many of that route came before."""
    proxy.listen(truth)
    end = run()
    assert end.code in codes, end.words
    seen: Counter[str] = Counter()
    found = []
    for item in proxy.asked:
        found.append((item.route, seen[item.route]))
        seen[item.route] += 1
    return found


@dataclass
class Sweep:
    """What came of a lie told to each answer: the cases that ran, and those that went wrong, with the reasons."""

    cases: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    codes: Counter[int] = field(default_factory=Counter)


def sweep(proxy: LyingProxy, requests: Iterable[tuple[str, int]], lies: Iterable[str], case: Case) -> Sweep:
    """Run ``case`` for each of ``requests`` and each of ``lies``; where a lie is not possible it does not count."""
    found = Sweep()
    for route, occurrence in requests:
        for lie in lies:
            problems = case(once(lie, route, occurrence))
            if not proxy.lied:
                continue
            found.cases += 1
            if problems:
                found.wrong[f"{lie} | {route} | {occurrence}"] = "; ".join(problems)
    return found


def for_ever(proxy: LyingProxy, requests: Iterable[tuple[str, int]], case: Case) -> Sweep:
    """Run ``case`` for each route of ``requests`` and each lie, told to every request of that route."""
    found = Sweep()
    for route in dict.fromkeys(route for route, _ in requests):
        for lie in LIES:
            problems = case(always(lie, route))
            if not proxy.lied:
                continue
            found.cases += 1
            if problems:
                found.wrong[f"{lie} | {route} | for ever"] = "; ".join(problems)
    return found


@dataclass
class Soak:
    """The line of docs/soak.md about one thing that was lied to, written as its checks end."""

    about: str
    runs: int = 0
    lies: int = 0

    def swept(self, requests: int, once: Sweep, ever: Sweep) -> None:
        """What the two sweeps found."""
        record(
            f"a proxy lies: {self.about}, each answer and each route",
            f"{requests} requests x {len(LIES)} lies: {once.cases} cases; for ever on a route: {ever.cases} cases;"
            f" wrong or untrue: {len(once.wrong)} and {len(ever.wrong)}",
        )

    def survived(self, proxy: LyingProxy) -> None:
        """One more run of chaos went well."""
        self.runs += 1
        self.lies += sum(item.lie is not None for item in proxy.asked)
        record(
            f"a proxy lies: {self.about}, chaos at {SHARE:.0%}",
            f"{self.runs} runs with {self.lies} lies: old or new and true words in all",
        )


SHARE = 0.3
"""The share of lies in a run of chaos."""


def slice_of(requests: Iterable[tuple[str, int]], lie: str) -> list[tuple[str, int]]:
    """Those of ``requests`` that are replaced by ``lie`` where not all cases can run.

    All lies together replace each request at least once, and each lie is told at least once on each kind of route.
    """
    kinds: dict[str, list[tuple[str, int]]] = {}
    for item in requests:
        kinds.setdefault(_kind(item[0]), []).append(item)
    place = list(LIES).index(lie)
    chosen: list[tuple[str, int]] = []
    for offset, same in enumerate(kinds.values()):
        chosen += same[(place + offset) % len(LIES) :: len(LIES)] or [same[place % len(same)]]
    return chosen


EVERY_TIME = ("flipped byte", "cut off", "page", "from memory", "of another")
"""The lies that `make test` tells where a case takes seconds. The others are told by `make soak`."""


def told(*names: str) -> list[Any]:
    """Pairs of a name and a lie for ``pytest.mark.parametrize``; those that are not told every time are marked."""
    marks: dict[bool, Any] = {True: (), False: pytest.mark.soak}
    return [pytest.param(name, lie, marks=marks[lie in EVERY_TIME]) for name in names for lie in LIES]


def _kind(route: str) -> str:
    """A route without the names of files, branches and repos."""
    method, path = route.split(" ", 1)
    known = re.search(
        r"/(resolve|tree|refs|revision|commits|commit|branch|tag|preupload|paths-info|lfs|info/lfs/\w+)\b", path
    )
    return f"{method} {known[1] if known else re.sub(r'/[^/]*/[^/]*$', '', path)}"


@contextmanager
def lied_to(home: Path) -> Iterator[tuple[Running, LyingProxy, pytest.MonkeyPatch]]:
    """A Hub in ``home``, the proxy before it, and what patches this process until the end of the block."""
    running = process.start(home / "hub", port=0)
    with lying(running.url) as proxy, pytest.MonkeyPatch.context() as patch:
        in_a_hurry(patch)
        patch.setenv("HUBKIT_HOME", str(home / "mine"))
        yield running, proxy, patch
    process.stop(running.data)


def sweep_everything(
    proxy: LyingProxy, about: str, requests: Sequence[tuple[str, int]], case: Case, excused: Mapping[str, str]
) -> None:
    """Each of ``requests`` with each lie, and each lie for ever on each route; fails as :func:`judge` does."""
    single, ever = sweep(proxy, requests, LIES, case), for_ever(proxy, requests, case)
    Soak(about).swept(len(requests), single, ever)
    judge(single, excused)
    judge(ever, excused)


def judge(found: Sweep, excused: Mapping[str, str]) -> None:
    """Fail unless exactly the cases that are ``excused`` (patterns with their reason) went wrong."""
    new = {name: why for name, why in found.wrong.items() if not any(re.fullmatch(item, name) for item in excused)}
    assert not new, "\n" + "\n".join(f"{name}: {why}" for name, why in new.items())
