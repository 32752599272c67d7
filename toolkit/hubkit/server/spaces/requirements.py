"""The requirements of a Space: read as pip reads them, and written anew for pip, which never sees the file itself.

pip's file format is larger than a Space needs: ``--constr FILE`` and ``--pre --requirement FILE`` read any file of the
machine, and pip quotes its first line in a message that everybody can read. So every line is parsed here, by an
allow-list of options in their full spelling and by ``packaging``; included files of the Space are put in their places;
and what pip gets holds nothing but what was understood.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from hubkit.core import numbers

REQUIREMENTS = "requirements.txt"
_LIMIT = 2**17
_QUOTED = 200
"""Characters of a line that an error shows."""
_COMMENT = re.compile(r"(^|\s)#.*$")  # one blank: many of them would take a square of time
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_URL = re.compile(r"(?:git\+)?https://[^\s\\'\"]+")
_INDEX = re.compile(r"https://[^\s\\'\"#]+")
_PACKAGES = re.compile(r"[A-Za-z0-9._,:-]+")
_HASH = re.compile(r"(?:sha256|sha384|sha512):[0-9a-f]{64,128}")
_PATH = re.compile(r"(?P<path>[\w./+~@-]+)(?P<extras>\[[\w,.-]*\])?")
_ARCHIVE = (".whl", ".zip", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tlz", ".tar.lz")
_FLAGS = ("--pre", "--prefer-binary", "--no-index", "--require-hashes")
_SHORT = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url", "-f": "--find-links"}
_FILES = ("--requirement", "--constraint")
_OPTION = re.compile(r"(--[a-z-]+)(?:=(.*))?|(-[a-z])=?(.*)", re.DOTALL)


class RequirementsError(Exception):
    """Why the requirements of a Space are refused: a sentence, which quotes the Space's own lines alone."""


@dataclass
class Requirements:
    """What pip is given: ``lines`` of a requirements file and of a constraints file, each in one spelling."""

    lines: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)

    def requirements(self) -> list[str]:
        """The lines that name something to install."""
        return [line for line in self.lines if not line.startswith("--") or line.startswith("--editable ")]

    def unmet(self) -> list[str]:
        """Those that the installed distributions do not meet, or that only pip can judge."""
        return [line for line in self.requirements() if not is_met(line)]

    def key(self, commit: str) -> str:
        """The name of a virtual environment: a hash of its requirements and of the interpreter that it extends.

        The commit counts when a line names files of the repo, which may be others in the next one.
        """
        parts = [commit] if any("./" in line and _parsed(line) is None for line in self.lines) else []
        text = "\n".join([sys.version, sys.prefix, *parts, *self.lines, "", *self.constraints])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(folder: Path) -> Requirements:
    """The requirements of the Space whose files are in ``folder``; none when it has no such file.

    RequirementsError for what this Hub does not pass on to pip, and for a file that is too large to be one.
    """
    reader = _Reader(folder.resolve())
    if (path := reader.folder / REQUIREMENTS).is_file():
        reader.read(path, constraint=False)
    return reader.found


class _Reader:
    """Reads the requirements file of one Space and all that it includes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, Requirements()
        self._seen: set[tuple[Path, bool]] = set()

    def read(self, path: Path, *, constraint: bool) -> None:
        """Add the lines of one file; once each, whoever includes it."""
        if (path, constraint) in self._seen:
            return
        self._seen.add((path, constraint))
        if (size := path.stat().st_size) > _LIMIT:
            raise RequirementsError(
                f"{path.name} may have {numbers.count(_LIMIT)} bytes; it has {numbers.count(size)}."
            )
        for line in logical_lines(path.read_text(encoding="utf-8-sig", errors="replace")):
            lines = self._line(path, line, constraint=constraint)
            (self.found.constraints if constraint else self.found.lines).extend(lines)

    def _line(self, file: Path, line: str, *, constraint: bool) -> list[str]:
        """The lines for pip in place of one; none for an included file, whose lines are added by themselves."""

        def refuse(why: str) -> RequirementsError:
            return RequirementsError(f"{file.name}: {line[:_QUOTED]!r} {why}.")

        if _VARIABLE.search(line):
            raise refuse("names a variable of the environment, which this Hub does not fill in")
        if not line.replace("\t", " ").isprintable():
            raise refuse("has characters that cannot be printed")
        tokens = line.split()
        start = next((number for number, token in enumerate(tokens) if token.startswith("-")), len(tokens))
        if start:
            what = self._requirement(" ".join(tokens[:start]), refuse)
            return [" ".join([what, *(f"--hash={digest}" for digest in _hashes(tokens[start:], refuse))])]
        try:
            options = shlex.split(line)
        except ValueError:
            raise refuse("has quotes that do not match") from None
        lines = []
        while options:
            name, value = _next_option(options, refuse)
            if name in _FILES:
                self.read(self._file(file, value, refuse), constraint=constraint or name == "--constraint")
            elif constraint:
                raise refuse("is an option, which a file of constraints cannot have")
            else:
                lines.append(self._option(name, value, refuse))
        return lines

    def _option(self, name: str, value: str, refuse: Callable[[str], RequirementsError]) -> str:
        if name in _FLAGS:
            return name
        if name in ("--no-binary", "--only-binary") and _PACKAGES.fullmatch(value):
            return f"{name} {value}"
        if name == "--editable":
            return f"{name} {self._path(value, refuse)}"
        if name in ("--index-url", "--extra-index-url", "--find-links"):
            if _INDEX.fullmatch(value):
                return f"{name} {value}"
            if name == "--find-links":
                return f"{name} {self._path(value, refuse)}"
            raise refuse("names an index that is not an https address")
        raise refuse("has a value that this option cannot have")

    def _requirement(self, text: str, refuse: Callable[[str], RequirementsError]) -> str:
        name = text.partition("[")[0].lower()
        if "/" in text.partition("@")[0].partition(";")[0] or name.startswith(".") or name.endswith(_ARCHIVE):
            return text if _URL.fullmatch(text) else self._path(text, refuse)
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise refuse("is not a requirement") from None
        if requirement.url and not _URL.fullmatch(requirement.url):
            raise refuse("has an address that begins neither with https:// nor with git+https://")
        return str(requirement)

    def _path(self, text: str, refuse: Callable[[str], RequirementsError]) -> str:
        """A file or folder of the Space, as pip is to find it from there."""
        match = _PATH.fullmatch(text)
        path = (self.folder / match["path"]).resolve() if match else None
        if match is None or path is None or not path.is_relative_to(self.folder) or not path.exists():
            raise refuse("does not name a file of this Space")
        return f"./{path.relative_to(self.folder).as_posix()}{match['extras'] or ''}"

    def _file(self, file: Path, value: str, refuse: Callable[[str], RequirementsError]) -> Path:
        path = (file.parent / value).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise refuse("includes what is not a file of this Space")
        return path


def logical_lines(text: str) -> Iterator[str]:
    """The lines of a requirements file as pip forms them: continued lines joined, comments and empty ones left out."""
    joined = ""
    for line in text.splitlines():
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            joined += line.strip("\\")
            continue
        whole, joined = joined + (f" {line}" if comment else line), ""
        if stripped := _COMMENT.sub("", whole).strip():
            yield stripped
    if stripped := _COMMENT.sub("", joined).strip():
        yield stripped


def _next_option(options: list[str], refuse: Callable[[str], RequirementsError]) -> tuple[str, str]:
    """Take the first option and its value from ``options``: its full name, and "" for a flag."""
    match = _OPTION.fullmatch(options.pop(0))
    name = match[1] or _SHORT.get(match[3], "") if match else ""
    value = (match[2] if match[1] else match[4] or None) if match else None
    if name in _FLAGS and value is None:
        return name, ""
    if name not in (*_SHORT.values(), "--extra-index-url", "--no-binary", "--only-binary"):
        raise refuse("has an option that this Hub does not pass on to pip, or one that is not written out")
    if value is None:
        if not options:
            raise refuse("ends where the value of its option is missing")
        value = options.pop(0)
    return name, value


def _hashes(tokens: list[str], refuse: Callable[[str], RequirementsError]) -> list[str]:
    """The digests behind a requirement: the only options that it may have."""
    digests = " ".join(tokens).replace("--hash=", "--hash ").split()
    pairs = list(zip(digests[::2], digests[1::2], strict=False))
    if len(digests) % 2 or any(name != "--hash" or not _HASH.fullmatch(digest) for name, digest in pairs):
        raise refuse("has an option that a requirement cannot have; --hash is the only one")
    return [digest for _, digest in pairs]


# --- what is installed already


def is_met(line: str, extra: str = "") -> bool:
    """Whether the installed distributions meet a requirement; False when only pip can judge."""
    if (requirement := _parsed(line)) is None:
        return False
    try:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            return True
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False
    if (
        requirement.url
        or (version := installed(requirement.name)) is None
        or not requirement.specifier.contains(version, prereleases=True)
    ):
        return False
    dependencies = importlib.metadata.requires(requirement.name) or []
    return all(is_met(item, name) for name in requirement.extras for item in dependencies if "extra ==" in item)


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def installed(name: str) -> Version | None:
    """The version of a distribution that is installed here, or None."""
    try:
        return Version(importlib.metadata.version(name))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None
