"""What a push brings, checked by git and by the rules of a commit over the API, before any ref leads to it.

Git reads the pack, compares every object with its id and its form, and lists what the new commits change. Here is
decided what of that may be in a repo. Nothing is written outside the folder that the push was given.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hubkit.core import numbers
from hubkit.core.names import path_problem
from hubkit.core.printable import printable
from hubkit.server.repos.lfs import POINTER_LIMIT, Pointer, read_pointer
from hubkit.server.repos.objects import DamagedError, MissingError, Objects
from hubkit.server.repos.reader import parse_commit
from hubkit.server.smart.children import GitFailedError, environment, reading, run

MOST_OBJECTS, MOST_CHANGES, MOST_FILES = 300_000, 1_000_000, 1_000_000
_MOST_OF_ALL = 4 * MOST_FILES
LOOSE = 100
"""Objects up to which a push is stored one file each, as commits over the API are; git itself has the same number."""
_MOST = {"commit": 2**20, "tag": 2**20, "tree": 2**25}
_MESSAGE = 65536
_FIELD, _NAMES = 4096, 2**27
"""Bytes of a line of git's about a change; of the paths of all changes together."""
_PARENTS = 100
_FILES = {b"100644", b"100755"}
_SHOWN = 5
_ROOM = 2**20
_PACK_HEAD = 12


class RefusedError(Exception):
    """A push is refused. ``messages`` are the sentences that its user reads."""

    def __init__(self, *messages: str) -> None:
        super().__init__(messages[0])
        self.messages = list(messages)


@dataclass
class Checked:
    """What the new commits of a push bring: the commits, newest first, and the pointers to large files by path."""

    commits: list[str] = field(default_factory=list)
    pointers: dict[str, Pointer] = field(default_factory=dict)


class Incoming:
    """The objects of one push to the bare ``repo``, in ``folder`` until they are accepted."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self._repo, self._folder, self._packed = repo, folder, folder / "packed"
        self._objects: dict[str, tuple[str, int]] = {}
        self._packed.mkdir()
        self._with_repo = environment(repo, incoming=self._packed)
        self._alone = environment(repo, incoming=self._packed, alone=True)

    def read_pack(self, file: BinaryIO, limit: int) -> None:
        """Read the pack that ``file`` is at; RefusedError for what is no pack, is damaged or has too much in it."""
        start = file.tell()
        head = file.read(_PACK_HEAD)
        count = int.from_bytes(head[8:12], "big")
        if head[:4] != b"PACK" or len(head) < _PACK_HEAD:
            raise RefusedError("The push has no pack.")
        if count > MOST_OBJECTS:
            raise RefusedError(
                f"The push has {numbers.count(count)} objects; at most {numbers.count(MOST_OBJECTS)} are accepted. "
                "Push fewer commits at once."
            )
        if count == 0:
            return
        os.lseek(file.fileno(), start, os.SEEK_SET)  # the child reads from where the file itself is
        words = ["index-pack", "--stdin", "--fix-thin", "--strict", f"--max-input-size={limit}"]
        try:
            run(words, self._with_repo, given=file)
        except GitFailedError as error:
            # On a full disk there may be no room for git's own words either.
            silent = not error.errors and shutil.disk_usage(self._with_repo["GIT_DIR"]).free < _ROOM
            if "No space left" in error.errors or silent:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise RefusedError("The pack cannot be read.", *_reasons(error)) from error
        self._objects = dict(self._sizes(["cat-file", "--batch-all-objects", "--batch-check"], self._alone, []))
        for oid, (kind, size) in self._objects.items():
            if size > _MOST.get(kind, size):
                raise RefusedError(f"The {kind} {oid} is too large: {numbers.size(size)}.")

    def check(self, tips: list[str], largest: int) -> Checked:
        """What the commits above ``tips`` bring that no ref leads to yet. A file has ``largest`` bytes at most.

        RefusedError naming the first files or commits that may not be in a repo.
        """
        self._require_connected(tips)
        checked = Checked(self._list(["rev-list", "--stdin", "--not", "--all"], tips))
        self._refuse_strays(set(checked.commits))
        changes = self._sound_changes(tips)
        ends = self._list(["rev-list", "--no-walk", "--stdin", "--not", "--all"], tips)  # the commits behind tags, too
        self._refuse_many(sorted({*ends} & {*checked.commits}))
        blobs = {blob: path for path, _, blob in changes}
        sizes = {oid: size for oid, (_, size) in self._objects.items()}
        if unknown := [blob for blob in blobs if blob not in sizes]:
            known = self._sizes(["cat-file", "--batch-check", "--buffer"], self._with_repo, unknown)
            sizes |= {oid: size for oid, (_, size) in known}
        _refuse_large({path: sizes[blob] for blob, path in blobs.items()}, largest)
        self._refuse_large_strays(largest)
        small = [blob for blob in blobs if sizes[blob] < POINTER_LIMIT]
        found = {}
        for oid, kind, content in self._contents([*checked.commits, *small]):
            if kind == "commit":
                _check_commit(oid, content)
            elif pointer := read_pointer(content):
                found[oid] = pointer
        checked.pointers = {path: found[blob] for path, _, blob in changes if blob in found}
        return checked

    def settle(self) -> None:
        """Put what was read where the repo takes it from: a few objects one file each, more of them as the pack."""
        packs = sorted((self._packed / "pack").glob("pack-*")) if self._objects else []
        if len(self._objects) > LOOSE:
            target = self._folder / "pack"
            target.mkdir()
            for path in packs:
                path.replace(target / path.name)
            return
        into = environment(self._repo, incoming=self._folder, alone=True)
        for path in packs:
            if path.suffix == ".pack":
                with path.open("rb") as pack:
                    run(["unpack-objects", "-q"], into, given=pack)

    # ------------------------------------------------------------------------------------------------------------

    def _require_connected(self, tips: list[str]) -> None:
        try:
            run(["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"], self._with_repo, given=_lines(tips))
        except GitFailedError as error:
            raise RefusedError(
                "The history of the push is incomplete: objects that it needs are neither in it nor in the repo.",
                *_reasons(error),
            ) from error

    def _refuse_strays(self, reached: set[str]) -> None:
        """A commit that no ref leads to would be in the repo unchecked, and a branch could be created at it."""
        objects = Objects(self._repo)
        for oid, (kind, _) in self._objects.items():
            if kind == "commit" and oid not in reached:
                try:
                    objects.read(oid)
                except MissingError:
                    raise RefusedError(f"The push has the commit {oid}, to which no ref of it leads.") from None

    def _refuse_large_strays(self, largest: int) -> None:
        """What no commit of the push leads to stays until garbage is collected, and could be asked for by its id."""
        objects = Objects(self._repo)
        for oid, (kind, size) in self._objects.items():
            if kind == "blob" and size > largest:
                try:
                    objects.head(oid)
                except MissingError:
                    raise RefusedError(f"The file {oid} is too large: {numbers.size(size)}.") from None

    def _sound_changes(self, tips: list[str]) -> list[tuple[str, bytes, str]]:
        """All changes. RefusedError for paths that may not be in a repo, as soon as a few of them are read."""
        try:
            return self._read_changes(tips)
        except GitFailedError as error:  # its memory is limited
            raise RefusedError("Git cannot list what the push changes; it may change too many files.") from error

    def _read_changes(self, tips: list[str]) -> list[tuple[str, bytes, str]]:
        changes, problems, room = [], [], _NAMES
        for change in self._changes(tips):
            if problem := _name_problem(change[0], change[1]):
                problems.append(problem)
            if len(problems) > _SHOWN:
                break
            changes.append(change)
            room -= len(change[0])
            if room < 0:
                raise RefusedError(f"The paths that the push changes have more than {numbers.size(_NAMES)} together.")
        if problems:
            raise RefusedError("Files of the push cannot be in a repo:", *_first(problems))
        return changes

    def _refuse_many(self, tips: list[str]) -> None:
        """Equal folders cost a push nothing, but whoever lists the files of the repo."""
        left = _MOST_OF_ALL
        for tip in tips:
            files = 0
            with self._reading(["ls-tree", "-r", "-z", "--name-only", "--full-tree", tip], []) as output:
                while piece := output.read(2**16):
                    files += piece.count(b"\0")
                    if files > MOST_FILES:
                        raise RefusedError(f"The commit {tip} has more than {numbers.count(MOST_FILES)} files.")
            left -= files
            if left < 0:
                raise RefusedError("The branches of the push have too many files together. Push fewer at once.")

    def _changes(self, tips: list[str]) -> Iterator[tuple[str, bytes, str]]:
        """Path, mode and blob of every file that a new commit adds or changes, compared with its first parent."""
        words = ["log", "--format=", "--raw", "-z", "--no-abbrev", "-r", "--root", "--diff-merges=first-parent"]
        words += ["--no-renames", "--diff-filter=d", "--stdin", "--not", "--all"]
        seen: set[tuple[str, bytes, str]] = set()
        with self._reading(words, tips) as output:
            fields = _fields(output)
            for meta in fields:
                _, mode, _, blob, _ = meta.lstrip(b":").split(b" ")
                try:
                    path = next(fields).decode("utf-8")
                except UnicodeDecodeError:
                    raise RefusedError("The name of a file is not UTF-8.") from None
                change = (path, mode, blob.decode("ascii"))
                if change not in seen:
                    seen.add(change)
                    yield change
                if len(seen) > MOST_CHANGES:
                    raise RefusedError(f"The push changes more than {numbers.count(MOST_CHANGES)} files.")

    @contextmanager
    def _reading(
        self, words: list[str], given: Iterable[str], variables: dict[str, str] | None = None
    ) -> Iterator[BinaryIO]:
        """The output of a git child whose input is the lines ``given``."""
        with tempfile.TemporaryFile(dir=self._packed) as source:
            source.write(_lines(given))
            source.seek(0)
            with reading(words, variables or self._with_repo, source) as output:
                yield output

    def _list(self, words: list[str], given: list[str]) -> list[str]:
        with self._reading(words, given) as output:
            return output.read().decode("ascii").split()

    def _sizes(
        self, words: list[str], variables: dict[str, str], given: list[str]
    ) -> Iterator[tuple[str, tuple[str, int]]]:
        with self._reading(words, given, variables) as output:
            for line in output:
                oid, kind, *size = line.decode("ascii").split()
                if not size:
                    raise RefusedError(f"The object {oid} is missing.")
                yield oid, (kind, int(size[0]))

    def _contents(self, oids: list[str]) -> Iterator[tuple[str, str, bytes]]:
        with self._reading(["cat-file", "--batch", "--buffer"], oids) as output:
            while line := output.readline():
                oid, kind, size = line.decode("ascii").split()
                content = output.read(int(size))
                output.read(1)
                yield oid, kind, content


def _lines(words: Iterable[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode("ascii")


def _fields(output: BinaryIO) -> Iterator[bytes]:
    """What is between the NULs of a stream. RefusedError for what is longer than any path may be."""
    rest = b""
    while piece := output.read(2**16):
        *fields, rest = (rest + piece).split(b"\0")
        if max(map(len, (*fields, rest))) > _FIELD:
            raise RefusedError(f"A path of the push is longer than {numbers.count(_FIELD)} bytes.")
        yield from (field for field in fields if field)


def _reasons(error: GitFailedError) -> list[str]:
    """What git wrote about a failure, without the names of the Hub's own folders."""
    lines = [line for line in error.errors.splitlines() if line.startswith(("error: ", "fatal: "))]
    return [printable(line.partition(": ")[2])[:300] for line in lines[:_SHOWN] if "/" not in line]


def _name_problem(path: str, mode: bytes) -> str | None:
    if mode not in _FILES:
        kind = "a submodule" if mode == b"160000" else "a symbolic link"
        return f"{printable(path[:200])}: it is {kind}; a repo holds files only"
    problem = path_problem(path)
    return f"{printable(path[:200])}: {problem}" if problem else None


def _refuse_large(sizes: dict[str, int], largest: int) -> None:
    if large := [f"{printable(path)}: {numbers.size(size)}" for path, size in sizes.items() if size > largest]:
        raise RefusedError(
            f"Files larger than {numbers.size(largest)} must be stored with git-lfs:", *_first(large),
            f"Run `git lfs migrate import --above={largest // 2**20}MiB`, then push again.",
        )  # fmt: skip


def _first(problems: list[str]) -> list[str]:
    return [f"  {problem}" for problem in problems[:_SHOWN]] + ["  ..."] * (len(problems) > _SHOWN)


def _check_commit(oid: str, content: bytes) -> None:
    try:
        commit = parse_commit(oid, content)
    except DamagedError as error:
        raise RefusedError(f"A commit cannot be read: {error}.") from error
    message = commit.message
    if len(commit.parents) > _PARENTS:
        raise RefusedError(f"The commit {oid} has more than {_PARENTS} parents.")
    if len(message) > _MESSAGE:
        raise RefusedError(f"The message of the commit {oid} is longer than {numbers.count(_MESSAGE)} characters.")
