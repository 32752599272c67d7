"""Uploads by huggingface_hub's default way (Xet), each in a process of its own that can be killed.

They are forked from a process that has imported the client, because that takes longer than an upload.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any


class XetUploads:
    """Uploads, one at a time."""

    def __init__(self) -> None:
        names = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        names |= {"HF_HUB_DISABLE_XET": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
        self._parent = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=names | {"HF_HOME": os.environ["HF_HOME"]}, start_new_session=True, text=True,
        )  # fmt: skip

    def upload(self, ended: threading.Event, **order: Any) -> str | None:
        """Upload a file; None when it succeeded, else the error. It is broken off when ``ended`` is set."""
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.write(f"{json.dumps(order)}\n")
        self._parent.stdin.flush()
        pid, over = int(self._parent.stdout.readline()), threading.Event()

        def break_off() -> None:
            while not over.is_set():
                if ended.wait(0.05) and not over.is_set():
                    os.kill(pid, signal.SIGKILL)  # not yet waited for: the process that forked it waits for its word
                    return

        watch = threading.Thread(target=break_off)
        watch.start()
        error = str(json.loads(self._parent.stdout.readline())["error"])
        over.set()
        watch.join()
        self._parent.stdin.write("\n")
        self._parent.stdin.flush()
        return error or None

    def end(self) -> None:
        """End the process that is forked."""
        assert self._parent.stdin
        self._parent.stdin.close()
        self._parent.wait()


def _upload(order: dict[str, Any]) -> str:
    """In the forked process: upload a file and say what went wrong."""
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=order["url"], token=order["token"])
    try:
        api.create_commit(
            order["repo"],
            [
                huggingface_hub.CommitOperationAdd(order["path"], bytes.fromhex(order["content"])),
                *(huggingface_hub.CommitOperationDelete(path) for path in order["deleted"]),
            ],
            commit_message=order["title"],
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _wait_for_orders() -> None:
    """Import the client, then fork an upload for each line of the standard input."""
    import hf_xet
    import huggingface_hub  # noqa: F401

    assert hf_xet
    while line := sys.stdin.readline():
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiver)
            os.write(sender, _upload(json.loads(line)).encode() or b"\0")
            os._exit(0)
        os.close(sender)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        with os.fdopen(receiver, "rb") as pipe:
            word = pipe.read().decode("utf-8", "replace")
        error = "" if word == "\0" else word or "it was killed"
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()
        os.waitpid(child, 0)


if __name__ == "__main__":
    _wait_for_orders()
