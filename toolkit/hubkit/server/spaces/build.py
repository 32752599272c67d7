"""Building a Space: read its metadata, check out its files, prepare an environment for what it requires."""

from __future__ import annotations

import platform
import shutil
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.names import path_problem
from hubkit.core.processes.logs import log_line
from hubkit.core.space_metadata import seconds_of, space_problems
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Git
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.spaces.requirements import Requirements, RequirementsError, installed
from hubkit.server.spaces.requirements import read as read_requirements

NOT_RUN = ("docker", "static", "streamlit")
"""SDKs of the real Hub that this Hub does not run."""
STARTUP_SECONDS = 300.0
_BUILT = ("sdk_version", "app_file", "startup_duration_timeout")
"""Keys without which a Space is not built; what else is wrong with a card, the commit was to be refused for."""
_STARTUP_MOST = 24 * 3600.0
_CARD_LIMIT = 2**20
_PIP_READS, _PIP_HEEDS = "requirements.checked.txt", "constraints.checked.txt"


class Failure(Exception):
    """Why a Space does not run: its ``stage`` and an error message."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.message = stage, message


@dataclass(frozen=True)
class Plan:
    """How to run a Space, from its metadata."""

    commit: str
    title: str | None
    app_file: str
    startup_seconds: float
    remarks: tuple[str, ...]
    """How this Hub differs from what the metadata asks for, a sentence each."""


def read_plan(git: Git, commit: str) -> Plan:
    """The plan of a Space at a commit; Failure when its metadata does not allow it to run."""
    card = _card(git, commit)
    sdk = card.get("sdk")
    if sdk in NOT_RUN:
        raise Failure("STOPPED", f"This Hub runs Spaces with sdk: gradio; it does not run sdk: {sdk}.")
    if sdk != "gradio":
        raise Failure("CONFIG_ERROR", "README.md has no supported sdk; add the line 'sdk: gradio'.")
    if problem := next((item for item in space_problems(card) if item.level == "error" and item.key in _BUILT), None):
        raise Failure("CONFIG_ERROR", f"{problem.message} {problem.hint}")
    app_file = card.get("app_file") or "app.py"
    if not app_file.endswith(".py"):
        raise Failure("CONFIG_ERROR", "app_file must be the path of a Python file in the repo.")
    entry = git.entry(commit, app_file)
    if entry is None or entry.folder:
        raise Failure("NO_APP_FILE", f"The repo has no {app_file}.")
    title = card.get("title")
    return Plan(commit, title if isinstance(title, str) else None, app_file, _seconds(card), _remarks(card))


def _card(git: Git, commit: str) -> dict[str, Any]:
    entry = git.entry(commit, "README.md")
    if entry is None or entry.folder or entry.pointer or entry.size > _CARD_LIMIT:
        raise Failure("CONFIG_ERROR", "The repo has no README.md with metadata.")
    try:
        return metadata.read(git.blob(entry.oid).decode("utf-8", "replace"))
    except metadata.MetadataError as error:
        raise Failure("CONFIG_ERROR", f"The metadata of README.md cannot be read: {error}.") from None


def _seconds(card: dict[str, Any]) -> float:
    given = seconds_of(card.get("startup_duration_timeout"))
    return STARTUP_SECONDS if given is None else min(given, _STARTUP_MOST)


def _remarks(card: dict[str, Any]) -> tuple[str, ...]:
    """Different versions cause a warning and are not enforced: the app runs in the interpreter that runs the Hub."""
    remarks = []
    wanted, gradio = str(card.get("sdk_version", "")), installed("gradio")
    if wanted and gradio and wanted != str(gradio):
        remarks.append(f"Warning: sdk_version is {wanted}; the app runs with Gradio {gradio}, which is installed here.")
    wanted, python = str(card.get("python_version", "")), platform.python_version()
    if wanted and f"{python}.".find(f"{wanted}.") != 0:
        remarks.append(f"Warning: python_version is {wanted}; the app runs with Python {python}.")
    return tuple(remarks)


def append_line(log: Path, text: str) -> None:
    """Add a line to a build log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(log_line(text) + "\n")


def checkout(git: Git, commit: str, repo: str, lfs: LfsStore, target: Path) -> None:
    """The files of a commit as regular files in the new folder ``target``, large ones as copies from the store.

    Whatever was at ``target`` is removed. A link in the repo becomes a file that holds its text. Failure for a path
    that cannot be kept, and for a large file whose content the repo does not have.
    """
    part = target.with_name(f"{target.name}.part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    for entry in git.walk(commit) or ():
        if entry.folder:
            continue
        if problem := path_problem(entry.path):
            raise Failure("BUILD_ERROR", f"{entry.path!r} cannot be checked out: {problem}.")
        path = part / entry.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:  # never through what is there: names may differ by case only
                if entry.pointer is None:
                    file.write(git.blob(entry.oid))
                elif lfs.has(repo, entry.pointer.oid):
                    with lfs.path(entry.pointer.oid).open("rb") as large:
                        shutil.copyfileobj(large, file, 2**20)
                else:
                    raise Failure("BUILD_ERROR", f"The content of the LFS file {entry.path} is not in this repo.")
        except OSError as error:
            raise Failure("BUILD_ERROR", f"{entry.path} cannot be checked out: {error.strerror or error}.") from error
    part.replace(target)


def requirements(folder: Path) -> Requirements:
    """The requirements of a checked out Space; Failure for those that this Hub does not pass on to pip."""
    try:
        return read_requirements(folder)
    except RequirementsError as error:
        raise Failure("BUILD_ERROR", str(error)) from None


def write_requirements(folder: Path, requirements: Requirements) -> list[str]:
    """Write what pip is to read into ``folder``; the arguments that name it there."""
    arguments = []
    for option, name, lines in (("-r", _PIP_READS, requirements.lines), ("-c", _PIP_HEEDS, requirements.constraints)):
        if lines:
            (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            arguments += [option, name]
    return arguments


def make_environment(folder: Path) -> Path:
    """A new virtual environment that also sees what this interpreter has installed; its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False, clear=True)
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    site_folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(site) / "hub.pth").write_text("".join(f"{path}\n" for path in site_folders), encoding="utf-8")
    return folder / "bin" / "python"
