"""The Gradio Space of a release: its files are written and screened, its app is tested on this machine.

    bundle = build(facts, card, folder)
    with trial(folder, environment) as app:     # it runs here, in an environment of its own
        ask(app.url, "Hello", "main", 64)

An app gets none of the user's tokens. :mod:`hubkit.publishing.spaces.deployment` uploads the files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hubkit.checks.screening import screen
from hubkit.core import numbers
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import Manifest, digests, resource_dir, walk, write_atomic
from hubkit.core.home import hubkit_home
from hubkit.core.printable import printable
from hubkit.core.processes.app import App
from hubkit.core.processes.app import environment as app_environment
from hubkit.core.processes.confinement import Reach, Way
from hubkit.core.processes.logs import log_tail
from hubkit.core.processes.ports import free_port, is_free
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.manifest import MANIFEST_PATH, SCHEMA
from hubkit.publishing.spaces.measurements import BenchmarkTable, MeasuredAnswer
from hubkit.publishing.spaces.readiness import front_matter

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors")
"""What the app imports besides Gradio, which the Hub installs itself (``sdk_version``)."""
TIMEOUT = 1800.0
"""Seconds that an app may take to come up: the Hub's own limit, ``startup_duration_timeout``."""
TOKEN = "HUBKIT_SPACE_TOKEN"
"""The variable with a read-only token, with which an app loads a private repo or a gated base."""
EOS = "eos"
"""How an answer ended that the model closed with its end-of-turn token."""
_ANSWER_TIMEOUT = 600.0
_WAYS: Sequence[Way] = ("landlock", "bubblewrap")
"""Not another user: the cache of models stays the user's own."""
_NUMBERS = "number_format.py"
"""The name of :mod:`hubkit.core.numbers` beside the app, where ``numbers.py`` would shadow a standard module."""
PLAIN_CARD = "---\nsdk: gradio\napp_file: app.py\n---\n"
"""The card of an app that only runs here."""
TAIL = 20
"""Lines of a log that an error shows."""


@dataclass(frozen=True)
class Revision:
    """One revision to chat with; ``stopped`` of ``prompts`` measured answers ended with the end-of-turn token.

    Without prompts its stop rate was not measured. ``form``: the app loads its adapter on the base, or its weights.
    ``repo`` is where it is; None: in the repo that the Space shows.
    """

    name: str
    commit: str
    title: str
    stopped: int = 0
    prompts: int = 0
    form: Literal["adapter", "weights"] = "adapter"
    repo: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in ``release.json``."""
        plain: dict[str, Any] = {"name": self.name, "commit": self.commit, "title": self.title}
        if self.repo:
            plain["repo"] = self.repo
        if self.prompts:
            plain["stop_rate"] = {"stopped": self.stopped, "prompts": self.prompts}
        return {**plain, **({"form": self.form} if self.form != "adapter" else {})}


@dataclass(frozen=True)
class Facts:
    """The facts on the app and its card. ``base`` is (repo, commit), ``end_of_turn`` (token id, token).

    Without a repo the base is unknown. ``base_stop_rate`` is (stopped, prompts), None: not measured; ``answers`` are
    measured ones, of the base too.
    """

    title: str
    repo: str
    licence: str
    base: tuple[str, str]
    dtype: str
    end_of_turn: tuple[int, str]
    max_new_tokens: int
    revisions: Sequence[Revision]
    prompts: Sequence[str]
    base_stop_rate: tuple[int, int] | None = None
    answers: Sequence[MeasuredAnswer] = ()
    benchmarks: BenchmarkTable | None = None

    @property
    def repos(self) -> tuple[str, ...]:
        """Every model repo that the app loads, the one that the Space shows first."""
        return tuple(dict.fromkeys([self.repo, *(item.repo or self.repo for item in self.revisions)]))

    def to_json(self) -> dict[str, Any]:
        """``release.json``, which the app reads. Everything from ``base_stop_rate`` on may be missing or null.

        ::

            "revisions": [{"name", "commit", "title", "repo"?, "form"?, "stop_rate"?: {"stopped", "prompts"}}],
            "base_stop_rate": {"stopped", "prompts"},
            "answers": [{"prompt", "revision" ("base": the base), "answer", "ended": "eos" | "limit", "tokens"}],
            "benchmarks": {"columns": [revision, ...], "rows": [[label, a text or null for each column, ...], ...]}
        """
        stopped, prompts = self.base_stop_rate or (0, 0)
        return {
            "title": self.title,
            "repo": self.repo,
            "base": {"repo": self.base[0], "commit": self.base[1]} if self.base[0] else None,
            "dtype": self.dtype,
            "end_of_turn": {"id": self.end_of_turn[0], "token": self.end_of_turn[1]},
            "max_new_tokens": self.max_new_tokens,
            "revisions": [item.to_json() for item in self.revisions],
            "prompts": list(self.prompts),
            "base_stop_rate": {"stopped": stopped, "prompts": prompts} if prompts else None,
            "answers": [item.to_json() for item in self.answers],
            "benchmarks": self.benchmarks.to_json() if self.benchmarks else None,
        }


@dataclass(frozen=True)
class Answer:
    """The app's answer to ``prompt``. ``ended``: "eos", "limit", "stopped" or the text of another token.

    ``seconds`` is the time until the answer was complete.
    """

    prompt: str
    revision: str
    text: str
    ended: str
    tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values."""
        return asdict(self)


def ending(ended: str) -> str:
    """How an answer ended, as an app or a file reports it; apps of hubkit 0.1 reported "turn end" for "eos"."""
    return EOS if ended == "turn end" else ended


def app_folder() -> Path:
    """The folder of the app, in the checkout or the wheel."""
    return resource_dir("spaces") / "chat"


def copy_app(into: Path) -> None:
    """Copy the app into the folder ``into``, with the number formatting that it shares with hubkit."""
    for path in walk(app_folder()):
        if "__pycache__" not in path.parts:
            target = into / path.relative_to(app_folder())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(numbers.__file__, into / _NUMBERS)


def build(facts: Facts, card: str, into: Path) -> Bundle:
    """Write the Space's files to ``into``: the app, its ``card``, its facts, requirements and manifest."""
    write_app(facts, card, into)
    return bundle_of(into, into / MANIFEST_PATH)


def write_app(facts: Facts, card: str, into: Path) -> None:
    """Write all but the manifest; nothing is screened."""
    copy_app(into)
    write_atomic(into / "release.json", json.dumps(facts.to_json(), indent=2, ensure_ascii=False) + "\n")
    pinned = (f"{name}=={version(name).partition('+')[0]}\n" for name in LIBRARIES)
    write_atomic(into / "requirements.txt", "".join(pinned))
    write_atomic(into / "README.md", card)


def bundle_of(folder: Path, manifest_at: Path) -> Bundle:
    """The screened files of ``folder``, unchanged, and a manifest of them, which is written to ``manifest_at``.

    hubkit's own home is left out: ``.hubkit`` in the current folder, unless the user chose another place.
    RefusedError for what must not be published.
    """
    home = hubkit_home()
    apart = home if folder.absolute() in home.parents else None  # a release builds its Space within the home
    found = {path.relative_to(folder).as_posix(): path for path in walk(folder) if apart not in path.absolute().parents}
    files = {
        name: path
        for name, path in found.items()
        if name != MANIFEST_PATH and not {"__pycache__", ".git"} & set(name.split("/")[:-1])
    }
    if problems := screen(files):
        listed = "\n".join(f"  {problem.sentence}" for problem in problems[:20])
        raise RefusedError(f"This Space must not be published:\n{listed}", hint="Fix these files and try again.")
    known = {name: digests(path) for name, path in files.items()}
    content = {"schema": SCHEMA, **Manifest(known).to_json()}
    write_atomic(manifest_at, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return Bundle({**files, MANIFEST_PATH: manifest_at}, Manifest({**known, MANIFEST_PATH: digests(manifest_at)}))


# --- on this machine


def environment(endpoint: str, cache: Path, *, token: str | None = None) -> dict[str, str]:
    """What an app needs to load models from the Hub at ``endpoint``, keeping their files in ``cache``.

    ``token`` is a read-only token, for a private repo; an app never gets the user's own token.
    """
    found = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    return found | ({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


@contextmanager
def trial(
    folder: Path, more: Mapping[str, str], *, port: int | None = None, timeout: float = TIMEOUT,
    reads: Sequence[Path] = (),
) -> Iterator[App]:  # fmt: skip
    """Run the app of ``folder`` here until the block ends; it answers when the block begins.

    Its home is a temporary folder. Where the system can confine it (``confinement`` of the app), it reaches none of the
    user's other files but ``reads`` and the cache that ``more`` names. RefusedError with the end of its log when it
    ends or does not listen within ``timeout`` seconds; UsageError when another program listens on ``port``.
    """
    if port and not is_free(port):  # otherwise it would be mistaken for the app
        raise UsageError(
            f"Port {port} is in use by another program.", hint="Choose another port with --port, or omit it."
        )
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        home, log, port = Path(place) / "home", Path(place) / "app.log", port or free_port()
        copy, name = Path(place) / "app", app_file(folder)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        cache = [Path(more[name]) for name in ("HF_HUB_CACHE",) if name in more]
        for folder_of_models in cache:
            folder_of_models.mkdir(parents=True, exist_ok=True)
        app = App.start(
            copy, name, port=port, environment=app_environment(home, port, more), log=log,
            reach=Reach(read=tuple(reads), write=tuple(cache), hidden=(hubkit_home(),)), ways=_WAYS,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + timeout
            while not app.answers():
                if (code := app.code()) is not None:
                    raise _not_up(f"The app ended with status {code} when it was tested on this machine", log)
                if time.monotonic() > deadline:
                    raise _not_up(
                        f"The app did not listen on its port within {numbers.seconds(timeout)} on this machine", log
                    )
                time.sleep(0.2)
            yield app
        finally:
            app.stop()


def app_file(folder: Path) -> str:
    """The file to run, from the card's front matter. RefusedError for what the Hub would not run."""
    front = front_matter(folder)
    if front.get("sdk") != "gradio":
        raise RefusedError(
            f"{folder / 'README.md'} does not declare a Gradio Space.",
            hint="Add this front matter:\n"
            f"---\ntitle: My Space\nsdk: gradio\nsdk_version: {version('gradio')}\napp_file: app.py\n---",
        )
    name = str(front.get("app_file") or "app.py")
    path = folder / name
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise RefusedError(f"{folder} has no file {name!r} to run.", hint="Add it, or set `app_file` to another file.")
    return name


def _not_up(what: str, log: Path) -> RefusedError:
    return RefusedError(f"{what}.{shown(log_tail(log, TAIL))}", hint="Fix the app, then try again.")


def shown(lines: Sequence[str]) -> str:
    """The end of a log, indented below a sentence."""
    printed = [printable(line) for line in lines if line.strip()]
    return " Its log ends:\n" + "\n".join(f"  {line}" for line in printed[-TAIL:]) if printed else " Its log is empty."


def ask(url: str, prompt: str, revision: str, limit: int | None = None, *, token: str | None = None) -> Answer:
    """Send one prompt to the app at ``url`` with gradio_client. HubkitError when it cannot answer.

    ``limit`` None leaves the number of tokens to the app, which knows what its models take. ``token`` is for a private
    Space only: the app receives it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # the client's own argument does not switch its reports off
    from gradio_client import Client

    began = time.monotonic()
    try:
        client = Client(
            url, token=token or False, verbose=False, download_files=False, httpx_kwargs={"timeout": _ANSWER_TIMEOUT}
        )
        try:
            result = client.submit(prompt=prompt, revision=revision, limit=limit, api_name="/answer").result(
                timeout=_ANSWER_TIMEOUT
            )
        finally:
            client.close()
        return Answer(
            prompt, revision, str(result["text"]), ending(str(result["ended"])), int(result["tokens"]),
            round(time.monotonic() - began, 2),
        )  # fmt: skip
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise HubkitError(
            f"The Space at {url} could not answer {prompt!r}: {type(error).__name__}: {words}.",
            hint="See its log: hubkit space logs REPO.",
        ) from error


def page(endpoint: str, repo: str) -> str:
    """The address of the Space's page."""
    return f"{endpoint}/spaces/{repo}"
