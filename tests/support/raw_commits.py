"""Commits as a program sends them that is not huggingface_hub: nothing is checked before the Hub sees it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from huggingface_hub.utils import httpx

from hubkit.server.process import Running


def commit(running: Running, repo: str, files: Mapping[str, bytes], summary: str) -> None:
    """Commit ``files`` to ``main`` of the model ``repo``, whatever their content."""
    lines = [{"key": "header", "value": {"summary": summary}}]
    for name, content in files.items():
        coded = base64.b64encode(content).decode()
        lines.append({"key": "file", "value": {"path": name, "content": coded, "encoding": "base64"}})
    response = httpx.post(
        f"{running.url}/api/models/{repo}/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"authorization": f"Bearer {running.token}"},
    )
    assert response.status_code == 200, response.text
