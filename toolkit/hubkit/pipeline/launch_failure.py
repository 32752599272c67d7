"""Why a training in several processes ended: told from what its processes and its launcher left in its folder.

When one process fails, the launcher ends the others. So of all the ends that are on record one is the cause, and it is
the one that a person is told of.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubkit.core.errors import BY_EXIT_CODE, HubkitError
from hubkit.core.files import read_json
from hubkit.core.processes.parent import describe_end

_Facts = Sequence[Mapping[str, Any]]
_LAST_LINES = 5
_GRACE = 20
"""Seconds; the launcher (torch's elastic agent) gives processes 30 to end when another one has failed."""
_OVER = re.compile(
    r"Timed out waiting \d+ ?ms for|wait timeout after \d+ ?ms|waiting for clients|collective operation timeout"
)
"""How a wait for another process ends: in gloo, in the store where they meet (twice), in NCCL; not one for a Hub."""
_LEFT = re.compile(r"gloo/\S+\] connection (?:closed|reset)|ncclRemoteError", re.IGNORECASE)
"""How gloo and NCCL say in a process that another one is no longer there."""
_LAUNCHER_SAYS = re.compile(r"[A-Z]\d{4} [\d:.]+ \d+ torch/distributed/elastic/")
"""Lines of the launcher's own about the end, which are in the log of the main process, too."""


def rank_log(log: Path, number: int) -> Path:
    """The log of process ``number`` of the training whose log is ``log``."""
    return log if number == 0 else log.with_name(f"{log.stem}.{number}{log.suffix}")


def failure_of(folder: Path, request: Mapping[str, Any], count: int, code: int) -> HubkitError:
    """Why the training ended: what stopped a process on purpose, else the process that died, else what one raised."""
    raised = sorted((read_json(file) for file in folder.glob("failed-*.json")), key=lambda item: item["number"])
    log = Path(request["log"])
    for item in raised:
        if item["known"]:
            return BY_EXIT_CODE.get(item["exit_code"], HubkitError)(item["message"], hint=item["hint"])
    machines = [read_json(file) for file in sorted(folder.glob("machine-*.json"))]
    for machine in machines:
        if problem := machine.get("problem"):
            hint = "Start one task on each machine with srun or mpirun, or set HUBKIT_MACHINE_RANK on each."
            return HubkitError(f"{request['job']} cannot be started on {machine['host']}: {problem}.", hint=hint)
    ends = [{**end, "host": machine["host"]} for machine in machines for end in machine["ends"]]
    forced = [end["number"] for end in ends if _was_forced(end, ends)]
    died: _Facts = [end for end in ends if _died(end) and end["number"] not in forced]
    if hung := _hung(raised, died, forced, log, count):
        return _of_hung(request, log, hung, count)
    if died := died or _asked_to_end(raised, ends):
        end = min(died, key=lambda item: item["time"])
        what = f"was ended {describe_end(end['code'])}"
        more = " Signal 9 often means that the machine ran out of memory." if end["code"] == -signal.SIGKILL else ""
        return _of_process(request, log, end["number"], count, end["host"], what, more)
    if raised:
        first = min(raised, key=lambda item: item["time"])
        what = f"failed: {first['message'].removeprefix(request['job'] + ' failed: ').rstrip('.')}"
        return _of_process(request, log, first["number"], count, first["host"], what)
    return HubkitError(
        f"The launcher of {request['job']} ended {describe_end(code)}.",
        hint=f"Its log is {log}. Run the same command again: it resumes from the last checkpoint.",
    )


def _died(end: Mapping[str, Any]) -> bool:
    """Whether a signal ended the process, and not the launcher's own, which ends the others when one fails."""
    code = int(end["code"])
    return code < 0 and code != -signal.SIGTERM


def _asked_to_end(raised: _Facts, ends: _Facts) -> _Facts:
    """The one process that somebody else than the launcher ended by SIGTERM, told by what the others say: it left."""
    asked = [end for end in ends if end["code"] == -signal.SIGTERM]
    left = all(_LEFT.search(item["message"]) for item in raised)
    return asked if left and len(asked) == 1 else []


def _was_forced(end: Mapping[str, Any], ends: _Facts) -> bool:
    """Whether the launcher killed the process, long after it had asked it to end because another one failed."""
    return bool(end["code"] == -signal.SIGKILL and end["time"] >= min(item["time"] for item in ends) + _GRACE)


def _hung(raised: _Facts, died: _Facts, forced: Sequence[int], log: Path, count: int) -> list[int]:
    """The processes for which the others waited until their time limit was over; none when the end was another.

    Gloo raises an exception in each that waits, NCCL aborts it. One that hangs does neither, and may not even end when
    it is asked to.
    """
    waited = {item["number"] for item in raised if _OVER.search(item["message"])}
    aborted = [end["number"] for end in died if end["code"] == -signal.SIGABRT]
    waited |= {number for number in aborted if _OVER.search(" ".join(_last_lines(rank_log(log, number), 50)))}
    others = {item["number"] for item in (*raised, *died)} - waited
    if not waited or others:
        return []
    return sorted(forced) or sorted({*range(count)} - waited)


def _of_hung(request: Mapping[str, Any], log: Path, hung: Sequence[int], count: int) -> HubkitError:
    """The error for processes that gave no answer in time."""
    logs = ", ".join(str(rank_log(log, number)) for number in hung)
    which = f"Process {hung[0]}" if len(hung) == 1 else f"One of the processes {', '.join(map(str, hung))}"
    lines = "".join(f"\n  {line}" for line in _last_lines(rank_log(log, hung[0]))) if len(hung) == 1 else ""
    limit = "`ddp_timeout` of the stage's args" if request["job"].startswith("train[") else "their time limit"
    return HubkitError(
        f"{which} of {request['job']} (0 to {count - 1}) gave no answer: the others waited for it until {limit} was "
        f"over, and all were ended." + (f" Its last lines:{lines}" if lines else ""),
        hint=f"See what it hangs on (log: {logs}). Run the same command again: it resumes from the last checkpoint.",
    )


def _of_process(
    request: Mapping[str, Any], log: Path, number: int, count: int, host: str, what: str, more: str = ""
) -> HubkitError:
    own = rank_log(log, number)
    lines = "".join(f"\n  {line}" for line in _last_lines(own))
    return HubkitError(
        f"Process {number} of {request['job']} (0 to {count - 1}) on {host} {what}.{more}"
        + (f" Its last lines:{lines}" if lines else ""),
        hint=f"Its log is {own}. Run the same command again: it resumes from the last checkpoint.",
    )


def _last_lines(log: Path, count: int = _LAST_LINES) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line[:200] for line in text.splitlines() if line.strip() and not _LAUNCHER_SAYS.match(line)][-count:]
