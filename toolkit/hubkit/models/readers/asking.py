"""A reader asked about a model: its script in a child process, which leaves a report or breaks off."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import LARGE, JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.core.processes.parent import allowed_environment, describe_end, kill_group
from hubkit.models.chat.golden import GOLDEN, golden_names, golden_requests
from hubkit.models.readers.environments import command
from hubkit.models.readers.readers import Reader

PLAIN = (
    "I've been told it's 1,234.5 in total - isn't it?\n\n  Yes:\t1234567 of them.",
    "Ça coûte 12 €… 你好 🌞\r\nfin",
)
"""Texts whose token ids are compared beside those of the conversations."""

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""Signals of which no program dies by itself: the kernel sends SIGKILL when memory runs out."""


@dataclass(frozen=True)
class Questions:
    """What every reader is asked: conversations by name, each with whether the assistant's turn is opened.

    ``prompts`` are the names of those that are answered, with at most ``max_new_tokens`` tokens.
    """

    conversations: Mapping[str, tuple[Sequence[Mapping[str, Any]], bool]]
    prompts: tuple[str, ...]
    max_new_tokens: int
    texts: tuple[str, ...] = PLAIN

    @classmethod
    def of(cls, prompts: Sequence[Sequence[Mapping[str, Any]]], *, max_new_tokens: int) -> Questions:
        """The golden conversations, and answers to ``prompts``; without any, to the golden ones."""
        asked = dict(zip(golden_names(), golden_requests(), strict=True))
        names = [f"{title}, its prompt" for title in GOLDEN]
        if prompts:
            own = {f"prompt {place}": (messages, True) for place, messages in enumerate(prompts, start=1)}
            asked, names = {**asked, **own}, list(own)
        return cls(asked, tuple(names), max_new_tokens)


@dataclass(frozen=True)
class Places:
    """Where a form of a model lies: its weights or GGUF file, its adapter, and its tokenizer."""

    model: Path
    tokenizer: Path
    adapter: Path | None = None


@dataclass(frozen=True)
class Report:
    """What a reader said of a model. ``broke_off`` is why there is no report of its own.

    ``not_run`` is what kept it from being asked: the time, the memory or the environment, and nothing of the model.
    """

    content: Mapping[str, Any] = field(default_factory=dict)
    broke_off: str | None = None
    not_run: str | None = None


def ask(
    reader: Reader,
    folder: Path | None,
    places: Places,
    questions: Questions,
    *,
    rendered: Mapping[str, str] | None = None,
    timeout: float,
) -> Report:
    """What ``reader`` in its environment ``folder`` reports of the model; it may take ``timeout`` seconds.

    ``rendered`` are the conversations as text, for a reader that does not render them. UsageError when its environment
    cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="hubkit-reader-") as work:
        job = {
            "model": str(places.model.resolve()),
            "tokenizer": str(places.tokenizer.resolve()),
            "adapter": str(places.adapter.resolve()) if places.adapter else None,
            "conversations": questions.conversations,
            "texts": questions.texts,
            "prompts": questions.prompts,
            "rendered": rendered or {},
            "max_new_tokens": questions.max_new_tokens,
            "report": f"{work}/report.json",
        }
        (Path(work) / "job.json").write_text(json.dumps(job), "utf-8")
        arguments = [*command(reader, folder), f"{work}/job.json", *([str(folder)] if reader.by_npm else [])]
        folders = {path.resolve() for path in (places.model, places.tokenizer, places.adapter) if path is not None}
        try:
            found = _answered(arguments, Path(work), timeout, sorted(map(str, folders), key=len, reverse=True))
        except OSError as error:
            hint = f"Remove {folder}; it is then installed anew." if folder else None
            raise UsageError(f"{reader.name} cannot be run: {error}.", hint=hint) from error
    if (reason := found.content.get("environment")) is not None:
        remedy = f"; remove readers/{folder.name} in hubkit's home" if folder else ""
        return Report(not_run=f"its environment cannot be used: {' '.join(str(reason).split())[:240]}{remedy}")
    if "memory" in found.content:
        return Report(not_run="there is not enough memory")
    return found


def _answered(arguments: list[str], work: Path, timeout: float, folders: Sequence[str]) -> Report:
    """The report of the child. Where it names one of ``folders``, places of this machine, their last name is left."""
    variables = {**allowed_environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf"), "HOME": str(work)}
    with (work / "errors").open("wb") as errors:
        # Its standard input stays open as long as this process lives, and ends the child with it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=variables, cwd=work,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return Report(not_run=f"it took more than {timeout:.0f} seconds")
        finally:
            kill_group(process.pid)
            process.wait()
            if process.stdin:
                process.stdin.close()
    if -code in _FROM_OUTSIDE:
        return Report(not_run=f"the reader was ended {describe_end(code)}; is there enough memory?")
    try:
        with (work / "report.json").open("rb") as file:
            content = file.read(LARGE.bytes + 1)
        for folder in folders:
            content = content.replace(json.dumps(folder)[1:-1].encode(), json.dumps(Path(folder).name)[1:-1].encode())
        found = load_json(content)
    except (OSError, JsonError):
        lines = (work / "errors").read_text("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        return Report(broke_off=f"the reader ended {describe_end(code)}{last}")
    return Report(found) if isinstance(found, dict) else Report(broke_off="its report is not one")
