"""Small Spaces for tests, and what is asked of them."""

from __future__ import annotations

from typing import Any

import psutil
from huggingface_hub import CommitOperationAdd, HfApi, SpaceRuntime
from huggingface_hub.utils import httpx

from hubkit.server.process import Running

SPACE = "hubkit/app"
SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"version": VERSION, "pid": os.getpid(), "environment": dict(os.environ), "path": sys.path}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())
        if self.path == "/crash":
            print("I was told to crash", flush=True)
            os._exit(7)
    def log_message(self, *_):
        pass
print("serving version", VERSION, flush=True)
port = int(os.environ["GRADIO_SERVER_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
HEAD = "---\ntitle: A title\nsdk: gradio\n{}\n---\n"


def server(version: int = 1) -> str:
    return SERVER.replace("VERSION", str(version))


def push(api: HfApi, space: str = SPACE, head: str = "", **files: str | bytes) -> str:
    """One commit on a Space, made when it is missing; ``app_py`` is the file ``app.py``. The commit's id."""
    api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
    contents = {name.replace("_", "."): text for name, text in files.items()} | {"README.md": HEAD.format(head)}
    adds = [
        CommitOperationAdd(path, text if isinstance(text, bytes) else text.encode()) for path, text in contents.items()
    ]
    return str(api.create_commit(space, adds, commit_message="change", repo_type="space").oid)


def wait(api: HfApi, space: str = SPACE) -> SpaceRuntime:
    return api.wait_for_space(space, timeout=60, poll_interval=0.05)


def ask(api: HfApi, space: str = SPACE, path: str = "/") -> Any:
    """What the app answers at the address that the Hub tells."""
    return httpx.get(f"{api.space_info(space).host}{path}").json()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def apps_of(hub: Running) -> list[psutil.Process]:
    """Every process below a Hub."""
    return list(psutil.Process(hub.pid).children(recursive=True))
