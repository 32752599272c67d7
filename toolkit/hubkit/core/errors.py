"""Exceptions of hubkit: message, hint and exit code.

Exit codes: 0 done or already done, 1 failed, 2 usage or recipe, 3 refused by a check or a gate, or because a training
would be discarded, 4 conflict or integrity, 5 remote unavailable and safe to retry, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class HubkitError(Exception):
    """Something went wrong and a person can do something about it.

    ``message`` says in one sentence what is wrong, ``hint`` what to do next. The command line prints both
    and ends with ``exit_code``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(HubkitError):
    """The command line or the recipe is wrong."""

    exit_code = 2


class RefusedError(HubkitError):
    """A check or a gate failed; nothing was published."""

    exit_code = 3


class ConflictError(HubkitError):
    """Someone else moved what we were about to move, or bytes are not what they should be."""

    exit_code = 4


class RemoteError(HubkitError):
    """The Hub could not be reached, did not answer, or a Space did not come up there; the command can be run again."""

    exit_code = 5


class InterruptedRun(HubkitError):
    """The person pressed Ctrl-C or the process was asked to end; the run can be resumed."""

    exit_code = 130


BY_EXIT_CODE: dict[int, type[HubkitError]] = {
    kind.exit_code: kind for kind in (HubkitError, UsageError, RefusedError, ConflictError, RemoteError, InterruptedRun)
}
"""How an error that crossed a process border finds its class again."""
