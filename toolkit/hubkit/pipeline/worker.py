"""The process in which stages run, and the parent's end of it.

A worker takes jobs as JSON lines on its standard input and answers with events on its standard output; what the
libraries print goes to the job's log. It lives for several jobs, so that torch is imported once, but a training
job has one of its own (memory comes back). When the parent dies, however it dies, the worker reads the end of its
input and ends its whole process group.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from hubkit.core.errors import BY_EXIT_CODE, HubkitError
from hubkit.core.files import os_error
from hubkit.core.findings import Finding
from hubkit.core.late_compiling import compile_late
from hubkit.core.output import PlainStream, hide
from hubkit.core.processes.child import end_with_input
from hubkit.core.processes.parent import JsonChild, describe_end
from hubkit.core.target import DEFAULT_ENDPOINT, Target
from hubkit.hub.errors import explain
from hubkit.hub.transport import install
from hubkit.hub.trusted_publishing import renewal
from hubkit.models.base import PinnedBase
from hubkit.models.load import release_memory
from hubkit.pipeline import launched
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Options, Report
from hubkit.training.launching.launch import Launching
from hubkit.training.watching import trackers

_TOKENS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_OIDC_RESOURCE",
    "HF_ENDPOINT",
    "HUGGINGFACE_CO_STAGING",
    "HF_HOME",
)
"""Variables of the user's that would send a worker to another Hub, or another Hub's token to this one."""
_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE")
"""Places that the user chose for huggingface.co; another Hub's files must not get into them."""


@dataclass
class Worker:
    """The parent's end. Use it as a context manager: leaving it ends the process and all its children.

    ``sealed``: the process has no token of the Hub's, and reads the base from the cache alone.
    """

    state: ReleaseState
    only: str | None = None
    sealed: bool = False
    _child: JsonChild | None = field(default=None, repr=False)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, report: Report, together: Sequence[Job] = ()) -> None:
        """Run ``job`` to its end, and in the same go those of ``together`` too, if its stage can.

        Raises what the stage raised, as a HubkitError.
        """
        self._call("run", job, report, together)

    def ahead(self, job: Job) -> Callable[[], str]:
        """Begin the ``ahead`` of ``job``'s stage; returns what waits for its end and says in words what it did.

        That may be called in another thread; it ends when this worker is closed.
        """
        child = self._ask("ahead", job)
        return lambda: str(self._wait(child, job, lambda figure, share: None)["words"])

    def check(self, job: Job) -> list[Finding]:
        """The findings of the ``check`` of ``job``'s stage."""
        answer = self._call("check", job, lambda figure, share: None)
        return [Finding(**item) for item in answer["findings"]]

    def close(self) -> None:
        """End the process group; finished artifacts are on disk already."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _start(self) -> JsonChild:
        dropped = _TOKENS if self.state.target.endpoint == DEFAULT_ENDPOINT else (*_TOKENS, *_CACHES)
        environment = launched.without_launcher(os.environ)
        environment = {name: value for name, value in environment.items() if name not in dropped}
        environment |= self.state.target.environment()
        if self.sealed:
            environment |= replace(self.state.target, token=None).environment()
            environment |= {"HF_HUB_OFFLINE": "1", "HF_TOKEN_PATH": os.devnull}
            environment.pop("HF_TOKEN", None)
        environment |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        environment["TRACKIO_DIR"] = str(trackers.trackio_folder(os.environ))
        if "OMP_NUM_THREADS" not in environment:
            environment |= {"OMP_NUM_THREADS": "1", "HUBKIT_FIT_THREADS": "1"}
        return JsonChild.start([sys.executable, "-P", "-m", "hubkit.pipeline.worker"], environment=environment)

    def _call(self, what: str, job: Job, report: Report, together: Sequence[Job] = ()) -> dict[str, Any]:
        return self._wait(self._ask(what, job, together), job, report)

    def _ask(self, what: str, job: Job, together: Sequence[Job] = ()) -> JsonChild:
        if self._child is None:
            self._child = self._start()
        child = self._child
        request = {
            "what": what,
            "job": job.id,
            "together": [other.id for other in together],
            "only": self.only,
            "options": asdict(self.state.options),
            "run": str(self.state.run.path),
            "folder": str(self.state.folder),
            "endpoint": self.state.target.endpoint,
            "home": str(self.state.target.home),
            "embedded": self.state.target.embedded,
            "trusted": self.state.target.trusted,
            "log": str(self._log(job)),
        }
        child.send(request)
        return child

    def _log(self, job: Job) -> Path:
        return self.state.run.logs / f"{job.id.replace('/', '~')}.log"

    def _wait(self, child: JsonChild, job: Job, report: Report) -> dict[str, Any]:
        while (event := child.receive()) is not None:
            if event["event"] == "progress":
                report(event["figure"], event["share"])
            elif event["event"] == "error":
                raise BY_EXIT_CODE.get(event["exit_code"], HubkitError)(event["message"], hint=event["hint"])
            else:
                return event
        code = child.process.wait()
        self.close()
        more = " Signal 9 often means that the machine ran out of memory." if code == -signal.SIGKILL else ""
        raise HubkitError(
            f"The process of {job.id} was ended {describe_end(code)}.{more}",
            hint=f"Its log is {self._log(job)}. Run the same command again: finished steps are kept.",
        )


def main() -> None:
    """The child: answer requests until standard input ends."""
    compile_late()
    hide(os.environ.get("HF_TOKEN"))
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    stream = PlainStream(Path(os.devnull).open("w"))  # noqa: SIM115  it lives as long as the process
    sys.stdout = sys.stderr = stream
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=end_with_input, args=(requests.put,), daemon=True).start()

    def send(**event: Any) -> None:
        events.write(json.dumps(event, default=str) + "\n")

    while True:
        request = json.loads(requests.get())
        log = open_log(Path(request["log"]))
        stream.target = log
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            send(event="done", **_answer(request, lambda f, s=None: send(event="progress", figure=f, share=s)))
        except BaseException as error:
            traceback.print_exc()
            shown = as_hubkit_error(error, request)
            send(event="error", message=shown.message, hint=shown.hint, exit_code=shown.exit_code)
        log.flush()


def open_log(path: Path) -> TextIO:
    """The log ``path``, to which lines are added as they are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8", buffering=1)


def state_for(request: Mapping[str, Any]) -> tuple[ReleaseState, Job]:
    """What ``request`` (of a :class:`Worker`) is about: the release, as its job finds it, and the job.

    This process then talks to the request's Hub with its token alone.
    """
    run = Run(Path(request["run"]))
    recipe = Recipe.model_validate_json((run.path / "recipe.json").read_text(encoding="utf-8"))
    target = Target(
        request["endpoint"],
        Path(request["home"]),
        os.environ.get("HF_TOKEN"),
        embedded=request["embedded"],
        trusted=request["trusted"],
    )
    jobs, options = expand(recipe, only=request["only"]), Options(**request["options"])
    state = ReleaseState(recipe, Path(request["folder"]), target, run, jobs, options=options)
    for job in state.jobs:
        if job.id == request["job"]:
            break
        if found := run.find(job.id):
            state.finished[job.id] = found
    install(target.endpoint, target.token, renewal(target))
    return state, job


def _answer(request: dict[str, Any], report: Callable[..., None]) -> dict[str, Any]:
    state, job = state_for(request)
    stage, run = find_stage(job.stage), state.run
    if request["what"] == "check":
        return {"findings": [vars(finding) for finding in stage.check(state.check_context(job))]}
    if request["what"] == "ahead":
        return {"words": stage.ahead(state.context(job, report))}  # type: ignore[attr-defined]  # it has one
    launching = getattr(state.settings(job), "launch", None)
    if isinstance(launching, Launching):
        run.begin(job.id, state.key(job), state.made_from(job))
        launched.run(launching, request, report)
        return {}
    fit_threads(state)
    others = [other for other in state.jobs if other.id in request["together"]]
    if not others or not _run_together(state, [job, *others], report):
        began, key, made_from = time.monotonic(), state.key(job), state.made_from(job)
        run.begin(job.id, key, made_from)
        result = stage.run(state.context(job, report))
        run.keep(job.id, key, result, round(time.monotonic() - began, 3), made_from)
    release_memory()  # of the job's models: the next job runs in this process
    return {}


def _run_together(state: ReleaseState, jobs: Sequence[Job], report: Report) -> bool:
    """Run ``jobs``, all of one stage, in one go. False when that failed: each alone then says what is wrong with it."""
    began, run_together = time.monotonic(), getattr(find_stage(jobs[0].stage), "run_together")  # noqa: B009
    for job in jobs:
        state.run.begin(job.id, state.key(job), state.made_from(job))
    try:
        results = run_together([state.context(job, report) for job in jobs])
    except Exception:
        traceback.print_exc()
        return False
    seconds = round((time.monotonic() - began) / len(jobs), 3)
    for job, result in zip(jobs, results, strict=True):
        state.run.keep(job.id, state.key(job), result, seconds, state.made_from(job))
    return True


def fit_threads(state: ReleaseState, processes: int = 1) -> None:
    """Give a model that is not small all the cores, or its share of them, unless the user set OMP_NUM_THREADS."""
    base = state.finished.get("base")
    if "HUBKIT_FIT_THREADS" in os.environ and base and not PinnedBase.load(base.path).is_small:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def as_hubkit_error(error: BaseException, request: Mapping[str, Any]) -> HubkitError:
    """``error`` as a sentence for the person; the traceback is in the log."""
    if isinstance(error, HubkitError):
        return error
    if (shown := explain(error, request["endpoint"])) is not None:
        return shown
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return os_error(error, Path(str(error.filename or request["run"])))
    words = " ".join(str(error).split())
    more = " Try a smaller batch size." if "out of memory" in words.lower() else ""
    return HubkitError(
        f"{request['job']} failed: {type(error).__name__}: {words[:300]}{more}",
        hint=f"The log is {request['log']}. Fix the cause and run the same command: finished steps are kept.",
    )


if __name__ == "__main__":
    main()
