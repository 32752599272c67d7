"""The Gradio Space of a release: its files made, tried on this machine, put on the Hub, and waited for.

    bundle = build(facts, folder)
    with trial(bundle, environment) as url:     # the app runs here, in an environment of its own
        ask(url, "Hello")
    deployed = deploy(hub, "me/my-space", bundle, "public")

An app sees none of the user's tokens. What goes to the Hub is one commit; when the app does not come up there, the
files of the version before are put back in another.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hubkit import apps, publishing
from hubkit.bundle import MANIFEST_PATH, Bundle, Provenance
from hubkit.diff import compare, short_list, tree_of
from hubkit.errors import ConflictError, HubkitError, RefusedError, RemoteError, UsageError
from hubkit.files import Manifest, resource_dir, walk, write_atomic
from hubkit.hub import Hub, Runtime, Visibility
from hubkit.output import printable
from hubkit.publishing import Note
from hubkit.run import Report, silent
from hubkit.screening import screen

COMING = frozenset({"BUILDING", "APP_STARTING", "RUNNING_BUILDING", "RUNNING_APP_STARTING"})
"""Stages from which a Space goes on by itself (huggingface_hub.SpaceStage)."""
RESTING = frozenset({"RUNNING", "SLEEPING", "PAUSED", "STOPPED"})
"""Stages in which nothing is wrong: the app answers, or would if its owner let it."""
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors")
"""What the app imports besides Gradio, which the Hub installs itself (``sdk_version``)."""
RAN = RESTING | {"RUNNING_BUILDING", "RUNNING_APP_STARTING"}
"""Stages of a Space with a version that ran."""
TIMEOUT = 1800.0
"""Seconds that an app may take to come up: the Hub's own limit, ``startup_duration_timeout``."""
ANSWERING = RESTING - {"PAUSED", "STOPPED"}
"""Stages in which the app can be asked: of one that sleeps, a question is what wakes it."""
_SETTLE_SECONDS = 30.0
_ANSWER_TIMEOUT = 600.0
_TAIL = 20


@dataclass(frozen=True)
class Revision:
    """One revision that people can talk to; ``stopped`` of ``prompts`` measured answers ended by themselves."""

    name: str
    commit: str
    title: str
    stopped: int
    prompts: int


@dataclass(frozen=True)
class Facts:
    """All that the app and its card say. ``base`` is (repo, commit), ``turn_end`` (token id, token)."""

    title: str
    repo: str
    licence: str
    base: tuple[str, str]
    dtype: str
    turn_end: tuple[int, str]
    max_new_tokens: int
    revisions: Sequence[Revision]
    prompts: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """``release.json``, which the app reads."""
        return {
            "title": self.title,
            "repo": self.repo,
            "base": {"repo": self.base[0], "commit": self.base[1]},
            "dtype": self.dtype,
            "turn_end": {"id": self.turn_end[0], "token": self.turn_end[1]},
            "max_new_tokens": self.max_new_tokens,
            "revisions": [
                {
                    "name": item.name,
                    "commit": item.commit,
                    "title": item.title,
                    "stop_rate": {"stopped": item.stopped, "prompts": item.prompts},
                }
                for item in self.revisions
            ],
            "prompts": list(self.prompts),
        }


@dataclass(frozen=True)
class Answer:
    """What the app said to ``prompt``. ``ended``: "turn end", "limit" or "stopped"; ``seconds`` of waiting."""

    prompt: str
    revision: str
    text: str
    ended: str
    tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Deployed:
    """A Space that runs, or rests: its commit, and the head before (the same one when nothing was written).

    ``host`` is the app's address; None while its owner keeps it from answering.
    """

    commit: str
    previous: str
    written: bool
    host: str | None
    foreign: tuple[str, ...] = ()


def app_folder() -> Path:
    """The app that is deployed, as it lies in the checkout or the wheel."""
    return resource_dir("spaces") / "chat"


def build(facts: Facts, into: Path) -> Bundle:
    """The Space's files in ``into``: the app, and the four that are written for it. Holds no time."""
    into.mkdir(parents=True, exist_ok=True)
    for path in walk(app_folder()):
        if "__pycache__" not in path.parts:
            target = into / path.relative_to(app_folder())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    write_atomic(into / "release.json", json.dumps(facts.to_json(), indent=2, ensure_ascii=False) + "\n")
    pinned = (f"{name}=={version(name).partition('+')[0]}\n" for name in LIBRARIES)
    write_atomic(into / "requirements.txt", "".join(pinned))
    write_atomic(into / "README.md", card(facts))
    manifest = Manifest.of(into).to_json()
    write_atomic(into / MANIFEST_PATH, json.dumps({"schema": 1, "space_of": facts.repo, **manifest}, indent=2) + "\n")
    return bundle_of(into)


def card(facts: Facts) -> str:
    """The Space's card: the front matter by which the Hub runs it, and what it is."""
    from huggingface_hub import SpaceCardData

    data = SpaceCardData(
        title=facts.title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=[facts.repo],
        license=facts.licence,
        colorFrom="indigo",
        colorTo="gray",
        short_description="Talk to each revision and compare them",
    )
    revisions = "\n".join(f"- `{item.name}` ({item.title}), commit `{item.commit}`" for item in facts.revisions)
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {facts.title}\n\n"
        f"Talk to the revisions of `{facts.repo}`, alone or side by side. Each answer says whether it ended by itself\n"
        f"or was cut at the limit. Each revision is pinned to its commit:\n\n{revisions}\n"
    )


def bundle_of(folder: Path) -> Bundle:
    """The files of ``folder`` as they are, screened. RefusedError for what must not be published."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in walk(folder)
        if "__pycache__" not in path.parts and ".git" not in path.relative_to(folder).parts[:-1]
    }
    if problems := screen(files):
        shown = "\n".join(f"  {problem.sentence}" for problem in problems[:20])
        raise RefusedError(f"This Space must not be published:\n{shown}", hint="Mend these files and try again.")
    known = Manifest.of(folder).files
    return Bundle(files, Manifest({path: known[path] for path in files}))


# --- on this machine


def environment(endpoint: str, cache: Path, *, embedded: bool, token: str | None = None) -> dict[str, str]:
    """What an app needs to load models from the Hub at ``endpoint``, keeping their files in ``cache``.

    ``token`` is one that may only read, for a private repo; the user's own never goes to an app.
    """
    found = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    if embedded:
        found["HF_HUB_DISABLE_XET"] = "1"
    return found | ({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


@contextmanager
def trial(
    folder: Path, more: Mapping[str, str], *, port: int | None = None, timeout: float = TIMEOUT
) -> Iterator[apps.App]:
    """Run the app of ``folder`` here until the block ends; it answers when the block begins.

    Its home is a new folder that goes with it. RefusedError with the end of its log when it ends or does not listen
    within ``timeout`` seconds; UsageError when another program listens on ``port``.
    """
    if port and not apps.is_free(port):  # it would be taken for the app
        raise UsageError(f"Port {port} is taken by another program.", hint="Name another one, or none.")
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        home, log, port = Path(place) / "home", Path(place) / "app.log", port or apps.free_port()
        copy = Path(place) / "app"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        app = apps.App.start(copy, app_file(copy), port=port, environment=apps.environment(home, port, more), log=log)
        try:
            deadline = time.monotonic() + timeout
            while not app.answers():
                if (code := app.code()) is not None:
                    raise _not_up(f"The app ended with status {code} when it was tried on this machine", log)
                if time.monotonic() > deadline:
                    raise _not_up(f"The app did not listen on its port within {timeout:g} s on this machine", log)
                time.sleep(0.2)
            yield app
        finally:
            app.stop()


def app_file(folder: Path) -> str:
    """The file that runs, as the card's front matter says; RefusedError when it is not there."""
    from huggingface_hub import RepoCard

    name = "app.py"
    if (folder / "README.md").is_file():
        name = str(RepoCard.load(folder / "README.md").data.to_dict().get("app_file") or name)
    path = folder / name
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise RefusedError(f"{folder} has no {name} to run.", hint="Name it in the README's `app_file`.")
    return name


def _not_up(what: str, log: Path) -> RefusedError:
    return RefusedError(f"{what}.{_shown(apps.log_tail(log, _TAIL))}", hint="Nothing was published. Mend the app.")


def _shown(lines: Sequence[str]) -> str:
    """The end of a log, indented below a sentence."""
    told = [printable(line) for line in lines if line.strip()]
    return " Its log ends:\n" + "\n".join(f"  {line}" for line in told[-_TAIL:]) if told else " Its log is empty."


def ask(url: str, prompt: str, revision: str, limit: int, *, token: str | None = None) -> Answer:
    """Ask the app at ``url`` one question, as any gradio_client does. HubkitError when it cannot answer.

    ``token`` is for a private Space only: an app gets to see it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # the client's own argument does not switch its reports off
    from gradio_client import Client

    began = time.monotonic()
    try:
        client = Client(
            url, token=token or False, verbose=False, download_files=False, httpx_kwargs={"timeout": _ANSWER_TIMEOUT}
        )
        try:
            said = client.submit(prompt=prompt, revision=revision, limit=limit, api_name="/answer").result(
                timeout=_ANSWER_TIMEOUT
            )
        finally:
            client.close()
        return Answer(
            prompt, revision, str(said["text"]), str(said["ended"]), int(said["tokens"]),
            round(time.monotonic() - began, 2),
        )  # fmt: skip
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise HubkitError(
            f"The Space at {url} could not answer {prompt!r}: {type(error).__name__}: {words}.",
            hint="Its log says more: hubkit space logs REPO.",
        ) from error


# --- on the Hub


def deploy(
    hub: Hub, repo: str, bundle: Bundle, visibility: Visibility, *,
    title: str = "Deploy the Space", hardware: str | None = None, secrets: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT, report: Report = silent, note: Note = publishing.no_note,
) -> Deployed:  # fmt: skip
    """Bring ``bundle`` to the Space ``repo`` in one commit and wait until its app runs.

    Only files that the manifest of an earlier deploy names are removed. When the app does not come up: RemoteError with
    its state and the end of its log, after the files of the version that ran before were put back.
    """
    hub.ensure_repo(repo, visibility, "space", hardware=hardware)
    ran = hub.runtime(repo).stage in RAN  # asked first: a secret runs the Space anew
    for name, value in (secrets or {}).items():
        hub.set_space_secret(repo, name, value)
    head = hub.head(repo, "main", "space")
    if head is None:
        raise ConflictError(f"The Space {repo} has no main branch.", hint="Remove it and run again.")
    commit, foreign = _commit(hub, repo, head, bundle, title)
    if written := commit != head:
        note("space-committed", commit=commit, previous=head)
    elif hub.runtime(repo).stage not in COMING | RESTING:
        hub.restart_space(repo)
    try:
        stage = wait(hub, repo, commit, new=written, timeout=timeout, report=report).stage
    except RemoteError as error:
        if not (written and ran):
            raise
        back = _put_back(hub, repo, head, commit)
        raise RemoteError(f"{error.message}\n{back}", hint=error.hint) from error
    return Deployed(commit, head, written, hub.space_host(repo) if stage in ANSWERING else None, foreign)


def _put_back(hub: Hub, repo: str, before: str, ours: str) -> str:
    """Put the version ``before`` back in place of ``ours``; a sentence about what came of it."""
    try:
        publishing.restore(hub, repo, "main", before, head=ours, title=f"Go back to {before[:12]}", repo_type="space")
    except HubkitError as error:
        return f"The version before ({before[:12]}) was not put back: {error.message}"
    return f"The version before ({before[:12]}) was put back."


def _commit(hub: Hub, repo: str, head: str, bundle: Bundle, title: str) -> tuple[str, tuple[str, ...]]:
    """The commit that holds ``bundle``, and the files of other people that it kept."""
    from huggingface_hub import CommitOperationDelete

    wanted, tree = tree_of(bundle.manifest), hub.tree(repo, head, "space")
    known = hub.read_file(repo, MANIFEST_PATH, head, "space") if MANIFEST_PATH in tree else None
    before = Provenance.parse(known)
    ours = before.paths if before else frozenset({"README.md"})
    gone = frozenset(path for path in ours if path not in wanted and path in tree)
    foreign = tuple(sorted(tree.keys() - wanted.keys() - ours - {".gitattributes"}))
    if publishing.holds_release(tree, wanted, gone):
        return head, foreign
    added = publishing.additions(bundle, [change.path for change in compare(tree, wanted).changes if change.after])
    removed = [CommitOperationDelete(path) for path in sorted(gone)]
    commit = publishing.commit(
        hub, repo, "main", head, [*added, *removed],
        lambda found: publishing.holds_release(found, wanted, gone), title, "space",
    )  # fmt: skip
    return commit, foreign


def wait(
    hub: Hub, repo: str, commit: str, *, new: bool = True, timeout: float = TIMEOUT, report: Report = silent
) -> Runtime:
    """Wait until the Space runs ``commit``. RemoteError with its state and the end of its log when it will not.

    ``new``: the commit was just made, so that a state may still be that of the version before, until the Space was seen
    to come or half a minute went by. ConflictError when somebody else's commit came on top and runs instead.
    """
    began = time.monotonic()
    settled = not new
    while True:
        runtime = hub.runtime(repo)
        now = time.monotonic()
        settled = settled or runtime.stage in COMING or now > began + _SETTLE_SECONDS
        outcome = verdict(runtime, commit, settled=settled)
        if outcome == "well":
            return runtime
        if outcome == "failed":
            raise failure(hub, repo, runtime)
        if outcome == "other" and (head := hub.head(repo, "main", "space")) != commit:
            raise publishing.moved(repo, "main", commit, head)
        if now > began + timeout:
            raise failure(hub, repo, runtime, f" after {timeout:g} s")
        report(f"{repo} is {runtime.stage.lower().replace('_', ' ')}", None)
        time.sleep(1.0)


def verdict(runtime: Runtime, commit: str, *, settled: bool) -> Literal["well", "failed", "other", "coming"]:
    """What ``runtime`` means to who waits for ``commit``: it is up, will not come up, another version is, or wait.

    ``settled``: it cannot be the state of before the commit any more. Only then a state is believed that does not say
    which commit it is about, or is an error about another one. Who paused a Space does not want it to come up.
    """
    if runtime.stage == "PAUSED":
        return "well"
    if runtime.stage in COMING or not (settled or runtime.commit == commit):
        return "coming"
    if runtime.stage not in RESTING:
        return "failed"
    return "well" if runtime.commit in {None, commit} else "other"


def failure(hub: Hub, repo: str, runtime: Runtime, when: str = "") -> RemoteError:
    """The error of a Space that does not run: its state, why, and the end of its log."""
    build = "BUILD" in runtime.stage
    try:
        lines = hub.space_log(repo, build=build)
    except HubkitError:
        lines = []
    why = f": {runtime.message.rstrip('.')}" if runtime.message else ""
    return RemoteError(
        f"The Space {repo} is {runtime.stage}{when}{why}.{_shown(lines)}",
        hint=f"The model's branches are as they were. All of the log: hubkit space logs {repo}{' --build' * build}",
    )


def page(endpoint: str, repo: str) -> str:
    """The address of the Space's page."""
    return f"{endpoint}/spaces/{repo}"


def foreign_note(foreign: tuple[str, ...]) -> str:
    """A sentence about files of other people that were kept."""
    return f"The Space holds files that hubkit did not put there; they are kept: {short_list(foreign)}."
