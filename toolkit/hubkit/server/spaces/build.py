"""Building a Space: read its metadata, check out its files, find the requirements to install."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import shutil
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from hubkit.core import numbers
from hubkit.core.names import path_problem
from hubkit.core.processes.logs import log_line
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Git
from hubkit.server.repos.lfs import LfsStore

REQUIREMENTS = "requirements.txt"
NOT_RUN = ("docker", "static", "streamlit")
"""SDKs of the real Hub that this Hub does not run."""
STARTUP_SECONDS = 300.0
_STARTUP_MOST = 24 * 3600.0
_CARD_LIMIT = 2**20
_REQUIREMENTS_LIMIT = 2**17
_INCLUDE = re.compile(r"(?:-[rc]|--(?:requirement|constraint))[\s=]*(\S.*)")
_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?)")
_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}


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
    app_file = card.get("app_file", "app.py")
    if not isinstance(app_file, str) or path_problem(app_file) or not app_file.endswith(".py"):
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
    given = card.get("startup_duration_timeout")
    if given is None:
        return STARTUP_SECONDS
    match = _SPAN.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise Failure("CONFIG_ERROR", "startup_duration_timeout must be a time such as 30s, 10m or 1h.")
    return min(float(match[1]) * _UNIT[match[2][0]], _STARTUP_MOST)


def _remarks(card: dict[str, Any]) -> tuple[str, ...]:
    """Different versions cause a warning and are not enforced: the app runs in the interpreter that runs the Hub."""
    remarks = []
    wanted, installed = str(card.get("sdk_version", "")), _installed("gradio")
    if wanted and installed and wanted != str(installed):
        remarks.append(
            f"Warning: sdk_version is {wanted}; the app runs with Gradio {installed}, which is installed here."
        )
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


def requirement_lines(folder: Path) -> list[str]:
    """The lines of the requirements file, without comments and empty ones; none when there is no file.

    Failure for a file that is too large to be one, and for one that includes a file from outside this Space: pip
    would quote its first line in a message that everybody can read.
    """
    path = folder / REQUIREMENTS
    if not path.is_file():
        return []
    lines, files = _lines(path), {path}
    to_check = [(path, line) for line in lines]
    while to_check:
        file, line = to_check.pop()
        if (match := _INCLUDE.match(line)) is None:
            continue
        target = (file.parent / match[1].strip("\"'")).resolve()
        if not (target.is_relative_to(folder.resolve()) and target.is_file()):
            raise Failure("BUILD_ERROR", f"{file.name} includes {match[1]!r}, which is not a file of this Space.")
        if target not in files:
            files.add(target)
            to_check += [(target, line) for line in _lines(target)]
    return lines


def _lines(path: Path) -> list[str]:
    if (size := path.stat().st_size) > _REQUIREMENTS_LIMIT:
        raise Failure(
            "BUILD_ERROR",
            f"{path.name} may have {numbers.count(_REQUIREMENTS_LIMIT)} bytes; it has {numbers.count(size)}.",
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", "").splitlines())
    return [line for line in lines if line]


def unmet_requirements(lines: list[str]) -> list[str]:
    """Those requirements that the installed distributions do not meet, or that only pip can judge."""
    return [line for line in lines if not _met(line)]


def _met(line: str, extra: str = "") -> bool:
    if (requirement := _requirement(line)) is None:
        return False
    try:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            return True
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False
    if (
        requirement.url
        or (installed := _installed(requirement.name)) is None
        or not requirement.specifier.contains(installed, prereleases=True)
    ):
        return False
    dependencies = importlib.metadata.requires(requirement.name) or []
    return all(_met(item, name) for name in requirement.extras for item in dependencies if "extra ==" in item)


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _installed(name: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(name))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None


def environment_key(lines: list[str], commit: str) -> str:
    """The name of a virtual environment: a hash of its requirements and of the interpreter that it extends.

    Lines that are not plain requirements may name files of the repo (``./a.whl``, ``-r more.txt``): the commit counts.
    """
    parts = [commit] if any(_requirement(line) is None for line in lines) else []
    return hashlib.sha256("\n".join([sys.version, sys.prefix, *parts, *lines]).encode()).hexdigest()[:12]


def make_environment(folder: Path) -> Path:
    """A new virtual environment that also sees what this interpreter has installed; its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False, clear=True)
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    site_folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(site) / "hub.pth").write_text("".join(f"{path}\n" for path in site_folders), encoding="utf-8")
    return folder / "bin" / "python"
