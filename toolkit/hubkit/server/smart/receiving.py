"""A push, from its first packet to the refs: one transaction with the checks of a commit over the API.

All of its refs move or none does. What is refused leaves nothing behind, and says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import BinaryIO

import pygit2

from hubkit.core.names import ref_problem
from hubkit.core.printable import printable
from hubkit.server.accounts.accounts import Actor
from hubkit.server.hub import Hub
from hubkit.server.repos import metadata
from hubkit.server.repos.git import MAIN, Git, Move, MovedError, NameTakenError, split_message
from hubkit.server.repos.pushes import Told
from hubkit.server.repos.store import Repo
from hubkit.server.smart.incoming import Checked, Incoming, RefusedError
from hubkit.server.smart.packets import Command, PushRequest

log = logging.getLogger("hubkit.server")
_PULL = "refs/pr/"
_TOLD = 50
"""Commits of a push that a pull request tells of; of more, the newest."""


@dataclass
class Outcome:
    """What became of a push: the refs that moved, or why none did, and what its user is told."""

    moved: list[Move] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unpacked: str = "ok"
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Receiver:
    """Takes pushes of ``actor`` to ``repo``. A regular file has ``largest`` bytes at most, a pack ``limit``."""

    hub: Hub
    repo: Repo
    actor: Actor
    largest: int
    limit: int

    def receive(self, request: PushRequest, file: BinaryIO) -> Outcome:
        """Carry out a push whose pack, if it has one, ``file`` is at."""
        outcome = Outcome()
        try:
            self._receive(request, file, outcome)
        except RefusedError as error:
            outcome.messages = error.messages
            _refuse_all(request, outcome, "refused by the Hub, see above")
        except MovedError as error:
            outcome.messages = [f"{error} was moved by somebody else meanwhile. Fetch, and push again."]
            _refuse_all(request, outcome, "fetch first")
        except NameTakenError as error:
            outcome.messages = [str(error)]
            _refuse_all(request, outcome, "the name is taken")
        return outcome

    def _receive(self, request: PushRequest, file: BinaryIO, outcome: Outcome) -> None:
        commands = [command for command in request.commands if command.old != command.new]
        reasons = {command.ref: reason for command in commands if (reason := self._problem(command))}
        if len({command.ref for command in request.commands}) != len(request.commands):
            raise RefusedError("The push names a ref twice.")
        if reasons:
            outcome.refused = reasons
            raise RefusedError(*(f"{printable(ref)}: {reason}" for ref, reason in reasons.items()))
        moves = [Move(command.ref, command.old, command.new) for command in commands]
        tips = [move.new for move in moves if move.new]
        collected = self.hub.store.collected[self.repo.uid]
        with self.hub.store.writing(self.repo) as git:
            assert git.incoming is not None
            checked = self._read(Incoming(git.path, git.incoming), file, tips) if tips else Checked()
            for move in moves:
                _require_kind(git, move)
            outcome.messages = self._check_cards(git, moves)
            told = [item for move in moves for item in self._told(git, move)]
            self._apply(git, moves, told, checked, collected)
        outcome.moved = moves

    def _read(self, incoming: Incoming, file: BinaryIO, tips: list[str]) -> Checked:
        incoming.read_pack(file, self.limit)
        checked = incoming.check(tips, self.largest)
        self._claim(checked)
        incoming.settle()
        return checked

    def _claim(self, checked: Checked) -> None:
        """Every pointer names an object that the repo has, or gets now because the actor may read it elsewhere."""
        sizes = {
            pointer: self.hub.claim_object(self.repo, pointer.oid, self.actor)
            for pointer in set(checked.pointers.values())
        }
        self._refuse_missing([path for path, pointer in checked.pointers.items() if sizes[pointer] is None])
        if wrong := [path for path, pointer in checked.pointers.items() if sizes[pointer] != pointer.size]:
            raise RefusedError(f"The pointer {printable(wrong[0])} has another size than the object that it names.")
        self._flush(checked)

    def _flush(self, checked: Checked) -> None:
        """Make what the pointers name survive a power cut, before a ref leads to it."""
        lost = set(self.hub.lfs.flush(pointer.oid for pointer in checked.pointers.values()))
        self._refuse_missing([path for path, pointer in checked.pointers.items() if pointer.oid in lost])

    def _refuse_missing(self, paths: list[str]) -> None:
        if paths:
            raise RefusedError(
                f"The content of {len(paths):,} large files was not uploaded, such as {printable(paths[0])}.",
                "Run `git lfs push --all` with the name of the remote, then push again.",
            )

    def _apply(self, git: Git, moves: list[Move], told: list[Told], checked: Checked, collected: int) -> None:
        with self.hub.store.lock(self.repo):
            self._require_rights(moves)
            if self.hub.store.collected[self.repo.uid] != collected:
                raise RefusedError("Garbage was collected in this repo meanwhile. Push again.")
            gone = {
                pointer.oid
                for pointer in set(checked.pointers.values())
                if not self.hub.lfs.has(self.repo.uid, pointer.oid)
            }
            self._refuse_missing([path for path, pointer in checked.pointers.items() if pointer.oid in gone])
            self._flush(checked)  # again: one may have been deleted and uploaded anew
            self.hub.pushes.apply(git, self.repo, moves, told, self.actor.name)

    def _require_rights(self, moves: list[Move]) -> None:
        """The pack may have taken minutes: the token may have been revoked meanwhile, or the repo be another's."""
        actor, repo = self.hub.accounts.numbered(self.actor.number), self.hub.store.by_uid(self.repo.uid)
        if actor is None or actor.digest != self.actor.digest or repo is None:
            raise RefusedError("The token was revoked, or the repo was deleted, while the push was read.")
        now = replace(self, actor=actor, repo=repo)
        for move in moves:
            if reason := now._problem(Command(move.ref, move.old, move.new)):
                raise RefusedError(f"{printable(move.ref)}: {reason}")

    # Refs -------------------------------------------------------------------------------------------------------

    def _problem(self, command: Command) -> str | None:
        """Why the actor may not change a ref so; None when it may."""
        kind, _, name = command.ref.removeprefix("refs/").partition("/")
        if problem := ref_problem(name):  # of a deletion, too: a name may have another spelling on the disk
            return problem
        if not pygit2.reference_is_valid_name(command.ref):
            return "git cannot have a ref of this name"
        if kind == "pr":
            return self._pull_problem(command, name)
        if not self.hub.permissions.may_write(self.actor, self.repo):
            return "you may push to your own pull requests only"
        if kind not in {"heads", "tags"}:
            return "branches, tags and pull requests can be pushed, and nothing else"
        if command.ref == MAIN and command.new is None:
            return "the branch main cannot be deleted"
        return None

    def _pull_problem(self, command: Command, name: str) -> str | None:
        row = (
            self.hub.discussions.row(self.repo, int(name))
            if name.isascii() and name.isdigit() and len(name) < 10
            else None
        )
        if command.old is None or row is None:
            return "open the pull request on the Hub first, then push to its ref"
        if command.new is None:
            return "a pull request is closed on the Hub, not deleted"
        own = self.actor.wrote(row["author"], row["created"])
        own = own and self.hub.permissions.may_propose(self.actor, self.repo)
        if not own and not self.hub.permissions.may_write(self.actor, self.repo):
            return "this is the pull request of somebody else"
        return None

    def _told(self, git: Git, move: Move) -> Iterator[Told]:
        """What a pull request tells of a move: its new commits, oldest first."""
        if not move.ref.startswith(_PULL) or move.new is None:
            return
        new = []
        for commit in islice(git.history(move.new), _TOLD):
            if commit.id == move.old:
                break
            new.append(commit)
        else:
            new = new[:1] if move.old and git.merge_base(move.new, move.old) != move.old else new
        number = int(move.ref.removeprefix(_PULL))
        for commit in reversed(new):
            yield Told(number, commit.id, split_message(commit.message)[0])

    def _check_cards(self, git: Git, moves: list[Move]) -> list[str]:
        """Warnings of the cards that branches get; RefusedError for a card that the Hub would not take."""
        warnings: list[str] = []
        for move in moves:
            if move.new is None or not move.ref.startswith(("refs/heads/", _PULL)):
                continue
            entry = git.entry(move.new, "README.md")
            before = git.entry(move.old, "README.md") if move.old else None
            if entry is None or entry.folder or entry.pointer or (before and before.oid == entry.oid):
                continue
            errors, found = metadata.check(git.blob(entry.oid).decode("utf-8", "replace"), self.repo.type)
            if errors:
                raise RefusedError(
                    "The metadata of README.md is not valid:", *(f"  {printable(text)}" for text in errors)
                )
            warnings += [f"Warning: {printable(text)}" for text in found]
        return list(dict.fromkeys(warnings))


def _require_kind(git: Git, move: Move) -> None:
    """A branch leads to a commit, a tag to one as well, through tag objects."""
    if move.new is None:
        return
    kind, _ = git.objects.head(move.new)
    if move.ref.startswith("refs/tags/"):
        kind = "commit" if git.peel(move.new) else kind
    if kind != "commit":
        raise RefusedError(f"{printable(move.ref)} would lead to a {kind}, not to a commit.")


def _refuse_all(request: PushRequest, outcome: Outcome, reason: str) -> None:
    """All refs or none: what could have moved is refused with the others."""
    others = "refused together with another ref" if outcome.refused else reason
    outcome.refused = {command.ref: outcome.refused.get(command.ref, others) for command in request.commands}
