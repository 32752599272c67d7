"""Cards with faults, and the folders and repos in which they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from releases import target_of

from hubkit.cards.lint import lint_text
from hubkit.core.findings import Finding
from hubkit.hub.client import Hub, connect
from hubkit.models.chat.library import CHATML
from hubkit.server.process import Running

CARDS = Path(__file__).parents[1] / "lint_cards"
FRONT = "---\nlicense: apache-2.0\n---\n"
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def folder(place: Path, card: str, template: str | None = CHATML, **files: str) -> Path:
    """A folder as authors publish it; a file's name is written with '__' for '.'."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text(card, encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    for name, text in files.items():
        path = place / name.replace("__", ".").replace("_of_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return place


def with_base(hub: Running, home: Path, repo: str, licence: str) -> Hub:
    connected = connect(target_of(hub, home))
    connected.ensure_repo(repo, "public")
    connected.api.upload_file(
        path_or_fileobj=f"---\nlicense: {licence}\n---\n# Base\n".encode(), path_in_repo="README.md", repo_id=repo
    )
    return connected


def rules(faults: Any) -> dict[str, list[int]]:
    """Lines by rule."""
    found: dict[str, list[int]] = {}
    for fault in faults:
        found.setdefault(fault.rule, []).append(fault.line)
    return found


def of(text: str, rule: str, **more: Any) -> list[Finding]:
    return [fault for fault in lint_text(FRONT + text, **more) if fault.rule == rule]
