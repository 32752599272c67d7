"""Everything that can fail without GPU time, before any GPU time is spent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from hubkit.core.errors import BY_EXIT_CODE, HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import counted, size
from hubkit.hub.client import connect
from hubkit.pipeline import recipe_checks
from hubkit.pipeline.costs.estimate import Estimate, estimate
from hubkit.pipeline.costs.room import NEAR, memory_findings
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job
from hubkit.pipeline.release_state import ReleaseState
from hubkit.recipe.mistakes import Places

_LEAST_FREE = 200 * 1000 * 1000
_LARGE = 50 * 1000 * 1000
"""Bytes of weights from which on memory and disk are estimated; that takes seconds, once."""


def disk(folder: Path, needed: int = _LEAST_FREE) -> Iterable[Finding]:
    """Whether ``folder``'s disk has ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        yield Finding(
            "error",
            f"{folder} has {size(free)} free; this run needs {size(needed)}.",
            "Free space there, or set HUBKIT_HOME to a folder on another disk.",
            exit_code=1,
        )
    elif needed > NEAR * free:
        yield Finding("warning", f"{folder} has {size(free)} free; this run needs {size(needed)} of it.")


def libraries(state: ReleaseState, jobs: Iterable[Job]) -> Iterable[Finding]:
    """Whether every library that the stages need is installed."""
    needed = {name for job in jobs for name in find_stage(job.stage).SHAPED_BY}
    if all(stage.quantization == "none" for stage in state.recipe.stages.values()):
        needed.discard("bitsandbytes")
    missing = sorted(name for name in needed if installed(name) is None)
    if missing:
        extra = "eval" if missing == ["lm_eval"] else "all"
        yield Finding("error", f"Not installed: {', '.join(missing)}.", f"pip install 'hubkit[{extra}]'", exit_code=1)


def weight_bytes(state: ReleaseState) -> int | None:
    """Bytes of the base's weights on the Hub; None when the Hub does not say: the check of the base reports it."""
    try:
        tree = connect(state.target).tree(state.recipe.base.repo, state.recipe.base.revision)
    except HubkitError:
        return None
    return sum(entry.size for path, entry in tree.items() if path.endswith(".safetensors"))


def bytes_needed(state: ReleaseState, costs: Estimate | None, weights: int | None) -> int:
    """Bytes that the run is going to write: as ``costs`` has it, else from the size of the base's ``weights``.

    Then each variant is counted twice, merged and loaded back, and the base once; the least when nothing is known.
    """
    if costs is not None:
        return _LEAST_FREE + costs.disk
    return _LEAST_FREE + math.ceil((weights or 0) * (1 + 2 * len(state.recipe.variants)))


def costs_of(state: ReleaseState, weights: int | None) -> Estimate | None:
    """The costs of the run, when its base is large enough for its memory or disk to matter; None for a small one."""
    if weights is None or weights < _LARGE:
        return None
    found = estimate(state, state.run.path.parents[1], lambda: connect(state.target))
    return found if found.sized else None


Checking = Callable[[str, float], None]
"""Is told what is checked next, and the share (0 to 1) of the checks that passed."""


def gather(
    state: ReleaseState,
    jobs: Iterable[Job],
    check: Callable[[Job], list[Finding]],
    places: Places | None = None,
    checking: Checking = lambda name, share: None,
) -> list[Finding]:
    """All findings for ``jobs``, each once although several stages and variants may report it.

    ``check`` asks a job's stage (in a worker). ``places`` are the lines of the keys in the recipe's file: with them,
    mistakes of the recipe raise UsageError before any Hub is asked, as `hubkit plan` reports them; and a message that
    begins with a key of the recipe gets its line.
    """
    jobs = list(jobs)
    checking("disk", 0.05)
    weights = weight_bytes(state)
    costs = costs_of(state, weights)
    found = [*disk(state.run.path, bytes_needed(state, costs, weights))]
    checking("libraries", 0.1)
    found += libraries(state, jobs)
    if any(finding.level == "error" for finding in found):
        return found
    if places is not None:
        checking("recipe", 0.15)
        recipe_checks.refuse(
            state.recipe, state.folder, places, (job for job in jobs if job.step.per == "stage"), check
        )
    if costs:
        checking("memory", 0.25)
        found += memory_findings(costs)
    for place, job in enumerate(jobs):
        checking(job.id, 0.3 + 0.7 * place / len(jobs))
        found += check(job)
    return located(found, places or Places())


def in_words(names: Iterable[str], jobs: Iterable[Job]) -> str:
    """What was checked (``names``, as :data:`Checking` is told them) in one line; the steps are counted."""
    steps = {job.id for job in jobs}
    others = [name for name in dict.fromkeys(names) if name not in steps]
    return ", ".join([*others, counted(len(steps), "step")])


def located(findings: Iterable[Finding], places: Places) -> list[Finding]:
    """``findings``, each message once; one that begins with a key of the recipe begins with its file and line."""
    once: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        once.setdefault((finding.level, finding.message), finding)
    return [
        replace(finding, message=f"{places.of_message(finding.message)}{finding.message}") for finding in once.values()
    ]


def refuse(findings: Iterable[Finding]) -> None:
    """Raise when there is an error among ``findings``: one error that lists them all, exit code of the first."""
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    kind = BY_EXIT_CODE.get(errors[0].exit_code, RefusedError)
    if len(errors) == 1:
        raise kind(errors[0].message, hint=errors[0].hint)
    listed = [f"  {item.message}{' ' + item.hint if item.hint else ''}" for item in errors]
    error: HubkitError = kind(
        f"{len(errors)} problems must be fixed first:\n" + "\n".join(listed), hint="Nothing was trained or published."
    )
    raise error
