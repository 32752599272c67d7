"""Rules for names that the Hub and git will meet: repo ids, branches and tags, paths inside a repo.

The embedded Hub and the client side use the same functions, so that what one refuses the other refuses too.
Sources: ``git check-ref-format(1)`` for refs; huggingface_hub's ``validate_repo_id`` for repo ids.
"""

from __future__ import annotations

import re
import unicodedata

_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f ~^:?*\[\\]|\.\.|@\{|//")
_BIDI = frozenset("\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
_UNSEEN = frozenset({"Cc", "Cs", "Cn", "Zs", "Zl", "Zp"})
_COMMIT_ID = re.compile(r"[0-9a-fA-F]{40}")
_DEPTH = 64
_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


def repo_id_problem(repo_id: str) -> str | None:
    """Why ``repo_id`` is not a ``namespace/name``, or None when it is one."""
    parts = repo_id.split("/")
    if len(parts) != 2:
        return "a repo id has the form namespace/name"
    for part in parts:
        if not _REPO_PART.fullmatch(part) or "--" in part or ".." in part:
            return "letters, digits, '-', '_' and '.' only, not '--' or '..', and no '-' or '.' at an end"
        if len(part) > 96:
            return "a name has at most 96 characters"
    return "a repo name does not end with '.git'" if parts[1].endswith(".git") else None


def named_repo_problem(repo_id: str) -> str | None:
    """Why a card cannot name ``repo_id``; None when it can. The Hub's oldest repos have no namespace (``squad``)."""
    return repo_id_problem(repo_id if "/" in repo_id else f"namespace/{repo_id}")


def ref_problem(name: str) -> str | None:
    """Why ``name`` cannot be a branch or a tag, or None when it can.

    The rules of ``git check-ref-format --branch``, and no character that a reader cannot see: blanks of every kind,
    what begins a line or changes the direction of writing.
    """
    if not name:
        return "the name is empty"
    if len(name.encode("utf-8", "surrogatepass")) > 200:
        return "the name is longer than 200 bytes"
    if found := _REF_FORBIDDEN.search(name):
        shown = "a space" if found[0] == " " else repr(found[0])
        return f"{shown} is not allowed in a branch name"
    unseen = next(
        (char for char in name if unicodedata.category(char) in _UNSEEN or char in _BIDI or char == "\ufeff"), None
    )
    if unseen is not None:
        return f"the character U+{ord(unseen):04X} is not allowed in a branch name (invisible character)"
    if name.startswith(("-", "/", ".")) or name.endswith(("/", ".", ".lock")) or name in {"@", "HEAD"}:
        return "a branch name does not start with '-', '/' or '.', nor end with '/', '.' or '.lock'"
    if any(part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        return "no part of a branch name starts with '.' or ends with '.lock'"
    if _COMMIT_ID.fullmatch(name):
        return "40 hexadecimal digits are the id of a commit, which a branch or tag would hide"
    if name.startswith("refs/"):
        return "a branch name does not start with 'refs/'"
    return None


def path_problem(path: str) -> str | None:
    """Why ``path`` cannot be a file's path in a repo, or None when it can."""
    if not path:
        return "the path is empty"
    if len(path.encode("utf-8", "surrogatepass")) > 1024:
        return "the path is longer than 1,024 bytes"
    plain = path.isascii() and path.isprintable()  # as nearly all are: a release may have 100,000 of them
    if not plain and (problem := _character_problem(path)):
        return problem
    if _WINDOWS_DRIVE.match(path):
        return "the path begins like a drive of Windows"
    if "\\" in path:
        return "the path holds a backslash"
    if not plain and unicodedata.normalize("NFC", path) != path:
        return "the path is not in Unicode normal form C"
    if path.count("/") >= _DEPTH:
        return f"the path is more than {_DEPTH} folders deep"
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return "a part of the path is empty, '.' or '..'"
        on_disk = _as_on_disk(part)
        if on_disk in {".git", "git~1"}:
            return "a part of the path is '.git', or would be on some systems"
        if len(part.encode()) > 255:
            return "a part of the path is longer than 255 bytes"
        if _WINDOWS_DEVICE.fullmatch(on_disk):
            return f"{part!r} is a device name on Windows"
    return None


def _character_problem(path: str) -> str | None:
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in path):
        return "the path holds a control character"
    if any(char in _BIDI for char in path):
        return "the path holds a character that changes the direction of writing"
    if any(unicodedata.category(char) in {"Zl", "Zp"} for char in path):
        return "the path holds a character that begins a line"
    return None


def _as_on_disk(part: str) -> str:
    """``part`` as the file systems of Windows and macOS take it: no case, no unseen characters, no end that they drop.

    NTFS drops spaces and dots at the end and reads what follows a colon as the name of a stream; HFS+ passes over
    characters without a shape. Git's ``core.protectNTFS`` and ``core.protectHFS`` name the same.
    """
    seen = part if part.isascii() else "".join(char for char in part if unicodedata.category(char) != "Cf")
    return seen.partition(":")[0].rstrip(" .").lower()
