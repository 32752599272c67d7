"""A process of a training that trains nothing, for tests of what starts, follows and ends such processes.

``mode`` in the request says what it does: end, stay, or fail in one process as a stage does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hubkit.core.processes.child import end_with_parent


def main() -> None:
    end_with_parent(int(os.environ["HUBKIT_LAUNCHER"]))
    folder, number = Path(sys.argv[1]), int(os.environ["RANK"])
    request = json.loads((folder / "request.json").read_text())
    log = Path(request["log"])
    own = log if number == 0 else log.with_name(f"{log.stem}.{number}{log.suffix}")
    own.write_text(f"line of {number}\n")
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    if number == 0:
        print(json.dumps({"figure": f"{os.environ['WORLD_SIZE']} here", "share": 0.5}), flush=True)
        print("not an event", flush=True)
    if request["mode"] == "refuse" and number == 1:
        said = {"message": "The loss is nan.", "hint": "Lower it.", "exit_code": 3, "known": True}
        (folder / "failed-1.json").write_text(json.dumps({"number": 1, "host": "h", "time": 0.0, **said}))
        sys.exit(1)
    if request["mode"] == "raise" and number == 1:
        said = {"message": "RuntimeError: no memory.", "hint": None, "exit_code": 1, "known": False}
        (folder / "failed-1.json").write_text(json.dumps({"number": 1, "host": "h", "time": 0.0, **said}))
        sys.exit(1)
    while request["mode"] != "end":
        time.sleep(0.05)  # until it is killed


if __name__ == "__main__":
    main()
