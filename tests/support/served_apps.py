"""Folders of Spaces whose app is a small server without Gradio."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

REPO = "hubkit/shown"
SERVER = """\
import http.server, json, os

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"says": SAYS, "environment": dict(os.environ), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"])), Page).serve_forever()
"""
CARD = "---\ntitle: Shown\nsdk: gradio\nstartup_duration_timeout: 4s\n---\n# Shown\n"
DEAF = "import time\nprint('asleep', flush=True)\nwhile True:\n    time.sleep(1)\n"


def folder_of(place: Path, app: str, **files: str) -> Path:
    """A Space's folder whose app is ``app``."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in {"README.md": CARD, "app.py": app, **files}.items():
        (place / name).write_text(text)
    return place


def answering(place: Path, says: str, **files: str) -> Path:
    """A folder whose app answers with ``says`` and its environment."""
    return folder_of(place, SERVER.replace("SAYS", repr(says)), **files)


def told(url: str) -> Any:
    """What the app at ``url`` answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
