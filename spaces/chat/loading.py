"""The models are loaded while the page is open already: it says what is being loaded, or why nothing can be.

loader = Loader(release)
loader.start()                 # in the background
loader.progress()              # at any time: Progress("loading", "Loading main …")
models = loader.wait(600)      # the models; NotReady, with a sentence, when there are none
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from models import Models, has_adapter
from number_format import rough_duration, rough_size

RETRY_SECONDS = (5, 10, 20, 40, 60)
"""How long to wait between two tries while the Hub cannot be reached; the last one again and again."""
_SPARE = 0.05
"""The share of the memory that is kept free for what is computed."""


@dataclass(frozen=True)
class Progress:
    """``state``: "loading", "waiting" (for the Hub), "ready" or "failed"; ``message`` is for people."""

    state: str
    message: str


class NotReady(Exception):
    """There are no models: not yet, or never. Its text is a sentence for people."""


class Loader:
    """Loads the models of a release, and tries again as long as the Hub cannot be reached."""

    def __init__(self, release: Mapping[str, Any], load: Callable[..., Any] | None = None) -> None:
        self.release, self.load = release, load or _load
        self.models: Any = None
        self.began, self.done = time.monotonic(), Event()
        self.state, self.message = "loading", "Loading the model"

    def start(self) -> None:
        """Load in the background, unless it is done already."""
        if not self.done.is_set():
            Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        """Load; return when the models are there, or never will be."""
        tries = 0
        while not self.done.is_set():
            try:
                self.models = self.load(self.release, self.report)
                self.end("ready", "")
            except Exception as error:
                if (sentence := away(error)) is None:
                    logging.exception("The model does not load")
                    self.end("failed", str(error) if isinstance(error, NotReady) else _lasting(error))
                    return
                pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
                tries += 1
                self.state, self.message = "waiting", f"{sentence} The next try is in {pause} s."
                logging.warning(self.message)
                self.done.wait(pause)

    def report(self, message: str) -> None:
        """Say what is being loaded."""
        self.state, self.message = "loading", message

    def end(self, state: str, message: str) -> None:
        """Set the last state."""
        self.state, self.message = state, message
        self.done.set()

    def progress(self) -> Progress:
        """What happens now."""
        if self.state != "loading":
            return Progress(self.state, self.message)
        return Progress("loading", f"{self.message} … ({rough_duration(time.monotonic() - self.began)} so far)")

    def wait(self, seconds: float) -> Any:
        """The models, once they are loaded. NotReady after ``seconds``, or when they cannot be."""
        self.done.wait(seconds)
        if self.models is None:
            raise NotReady(self.progress().message)
        return self.models


def away(error: BaseException | None) -> str | None:
    """A sentence when ``error`` or its cause means that the Hub cannot be reached now, None for any other error."""
    while error is not None:
        if isinstance(error, (httpx.TransportError, ConnectionError, TimeoutError)):
            return "The Hub cannot be reached, so the model is not loaded yet."
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            code = error.response.status_code
            if code == 429 or code >= 500:
                return f"The Hub answers with an error ({code}), so the model is not loaded yet."
        error = error.__cause__ or error.__context__
    return None


def _lasting(error: BaseException) -> str:
    """A sentence about an error that another try does not help."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, GatedRepoError):
            return (
                "The model is gated. The Space needs a token that has access to it: its owner adds it as the secret "
                "HF_TOKEN in the Space's settings."
            )
        if isinstance(seen, (RepositoryNotFoundError, RevisionNotFoundError)):
            return (
                "The model, or this commit of it, is not on the Hub, or it is private. The owner of this Space checks "
                "release.json, and for a private model adds a read-only token as the secret HF_TOKEN."
            )
        seen = seen.__cause__ or seen.__context__
    words = " ".join(str(error).split())[:300]
    return f"The model does not load: {type(error).__name__}: {words}. The log of this Space has the details."


def _load(release: Mapping[str, Any], report: Callable[[str], None]) -> Models:
    report("Checking the size of the model")
    needed, free = bytes_needed(release), bytes_free()
    if needed and free and needed > free * (1 - _SPARE):
        raise NotReady(
            f"The model needs about {rough_size(needed)} of memory, and this machine has {rough_size(free)} free. "
            "The owner of this Space chooses larger hardware in its settings."
        )
    return Models(release, report)


def bytes_needed(release: Mapping[str, Any]) -> int:
    """The size of all weights that are loaded; 0 when it is unknown. Raises what the Hub's client raises."""
    wanted = []
    for item in release["revisions"]:
        place = (item.get("repo", release["repo"]), item.get("commit"))
        wanted.append((*place, "adapter/" if has_adapter(item) else ""))
    if any(has_adapter(item) for item in release["revisions"]):
        wanted.append((release["base"]["repo"], release["base"].get("commit"), ""))
    try:
        return sum(_weights(repo, commit, folder) for repo, commit, folder in wanted)
    except (HfHubHTTPError, httpx.HTTPError) as error:
        if away(error):
            return 0  # all may be in the cache; otherwise the loading says so
        raise


def _weights(repo: str, commit: str | None, folder: str) -> int:
    """Bytes of the safetensors files (without one, of the .bin files) directly in ``folder``."""
    if Path(repo).is_dir():
        sizes = {path.name: path.stat().st_size for path in (Path(repo) / folder).iterdir() if path.is_file()}
    else:
        info = HfApi().model_info(repo, revision=commit or None, files_metadata=True, timeout=20)
        names = {item.rfilename: item.size or 0 for item in info.siblings or ()}
        sizes = {name[len(folder) :]: size for name, size in names.items() if name.startswith(folder)}
    found = [
        sum(size for name, size in sizes.items() if name.endswith(suffix) and "/" not in name)
        for suffix in (".safetensors", ".bin")
    ]
    return found[0] or found[1]


def bytes_free() -> int:
    """The memory for models: of the GPU, or of this machine within the limit of its container; 0 when unknown."""
    if torch.cuda.is_available():
        return 0 if os.environ.get("SPACES_ZERO_GPU") else int(torch.cuda.mem_get_info()[0])
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError, IndexError):
        pass
    return max(0, min(found)) if found else 0
