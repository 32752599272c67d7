"""One process of a training that several processes do together. Its launcher starts it as a module.

Each calls ``run`` of the stage. The main one (number 0) alone writes the artifact, notes points in the journal and
reports progress; the others have folders of their own for what the stage writes, which are dropped.
"""

from __future__ import annotations

import os
import sys

from hubkit.core.processes.child import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(os.environ["HUBKIT_LAUNCHER"]))  # before what takes long to import

import json
import shutil
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json, write_json
from hubkit.core.late_compiling import compile_late
from hubkit.core.output import hide
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.launch_failure import rank_log
from hubkit.pipeline.launcher import REQUEST
from hubkit.pipeline.worker import as_hubkit_error, fit_threads, open_log, state_for
from hubkit.recipe.stage import Report, no_note
from hubkit.training.launching import ranks


def main() -> None:
    """Train; what goes wrong is written beside the request, and exit status 1 ends the other processes, too."""
    compile_late()
    folder = Path(sys.argv[1])
    request, number = read_json(folder / REQUEST), ranks.number()
    hide(os.environ.get("HF_TOKEN"))
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    log = open_log(rank_log(Path(request["log"]), number))
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    sys.stdout = sys.stderr = log
    log.write(f"{request['job']}: {ranks.in_words()} (pid {os.getpid()})\n")

    def report(figure: str, share: float | None) -> None:
        if ranks.is_main():
            events.write(json.dumps({"figure": figure, "share": share}) + "\n")
        else:
            log.write(f"{figure}\n")

    try:
        _train(request, report)
    except BaseException as error:
        traceback.print_exc()
        shown = as_hubkit_error(error, request)
        facts: dict[str, Any] = {"message": shown.message, "hint": shown.hint, "exit_code": shown.exit_code}
        facts |= {"known": isinstance(error, HubkitError), "host": socket.gethostname(), "time": time.time()}
        write_json(folder / f"failed-{number}.json", {"number": number, **facts})
        log.flush()
        os._exit(1)  # the others wait for this one: it must not wait for them


def _train(request: Mapping[str, Any], report: Report) -> None:
    state, job = state_for(request)
    stage, began = find_stage(job.stage), time.monotonic()
    fit_threads(state, ranks.on_this_machine())
    ctx = state.context(job, report)
    if ranks.is_main():
        result = stage.run(ctx)
        ranks.wait()
        seconds = round(time.monotonic() - began, 3)
        state.run.keep(job.id, state.key(job), result, seconds, state.made_from(job))
    else:
        own = ranks.own_folder(ctx.scratch) / "out"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        stage.run(replace(ctx, out=own, note=no_note))
        ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main()
