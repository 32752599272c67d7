"""Where a clone came from, as git itself reads its settings, and whether an address is a repo on a Hub.

A stranger's ``.git`` folder can make git run programs. So git is only asked about settings, by the folder's path and
never by searching for one, without hooks, monitors, pagers and the environment's ``GIT_*``, and within a time limit.
What git cannot answer counts as an address that nobody knows.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hubkit.core.names import repo_id_problem

UNREADABLE = "?"
"""Stands for an address that cannot be known."""
_SECONDS = 10
_MOST = 100
"""Addresses that are looked at; a clone with more has unknown ones."""
_LOG_BYTES = 4_000_000
_ENVIRONMENT = ("PATH", "HOME", "XDG_CONFIG_HOME", "SYSTEMROOT", "USERPROFILE", "TMPDIR")
_QUIET = (
    "core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.pager=cat", "safe.bareRepository=explicit",
)  # fmt: skip
_KEYS = r"^(remote\..*\.(url|pushurl|vcs)|branch\..*\.(remote|pushremote)|remote\.pushdefault)$"
_CLONED = re.compile(rb"\tclone: from ([^\n]+)")
_FETCHED = re.compile(rb" of ([^\n]+)|^[0-9a-f]{40,64}\t[^\t\n]*\t([^\n']+)$", re.MULTILINE)
_SCP = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(.*)")
_HUB = "huggingface.co"
_HUB_NAMES = {_HUB, "www.huggingface.co", "hf.co"}
_LOCAL = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}
_PORTS = {"http": 80, "https": 443, "ssh": 22}


def addresses(git: Path) -> Iterator[str]:
    """The addresses that the clone with the ``.git`` at ``git`` names or came from, as git resolves them."""
    place = _folder_of(git)
    if place is None:
        yield UNREADABLE
        return
    settings = _ask(git, "config", "--null", "--get-regexp", _KEYS)
    if settings is None:
        yield UNREADABLE
        return
    given = [item.partition("\n")[::2] for item in settings.split("\0") if item]
    names = {key.removeprefix("remote.").rpartition(".")[0] for key, _ in given if key.endswith((".url", ".pushurl"))}
    if len(given) > _MOST:
        yield UNREADABLE
    for key, value in given[:_MOST]:
        if key.endswith(".vcs"):
            yield UNREADABLE
        elif not key.endswith((".url", ".pushurl")) and value not in {*names, "."}:
            yield value  # a branch may name an address in place of a remote
    for name in sorted(names)[:_MOST]:
        for push in ((), ("--push",)):
            urls = _ask(git, "remote", "get-url", *push, "--all", "--", name)
            yield from urls.splitlines() if urls else [UNREADABLE]
    yield from _remembered(place)


def _folder_of(git: Path) -> Path | None:
    """The folder with the settings of the clone; None where it is not the user's, or does not belong to ``git``."""
    try:
        if git.is_symlink() or (hasattr(os, "getuid") and git.stat().st_uid != os.getuid()):
            return None
        if git.is_dir():
            return git
        named = git.read_text(encoding="utf-8", errors="replace")[:_LOG_BYTES].strip()
        place = (git.parent / named.removeprefix("gitdir:").strip()).resolve(strict=True)
        if place.stat().st_uid != git.stat().st_uid or not _names(place, git):
            return None
        common = place / "commondir"
        return (place / common.read_text(encoding="utf-8").strip()).resolve(strict=True) if common.is_file() else place
    except (OSError, ValueError, RuntimeError):
        return None


def _names(place: Path, git: Path) -> bool:
    """Whether the worktree's or submodule's folder ``place`` names ``git`` in turn, so that no other is borrowed."""
    back = place / "gitdir"
    if back.is_file():
        return (place / back.read_text(encoding="utf-8").strip()).resolve() == git.resolve()
    named = _ask(git, "config", "--get", "core.worktree")
    return bool(named) and (place / str(named).strip()).resolve() == git.parent.resolve()


def _remembered(place: Path) -> Iterator[str]:
    """What was cloned or fetched here, whether there is still a remote for it or not."""
    for name, pattern in (("logs/HEAD", _CLONED), ("FETCH_HEAD", _FETCHED)):
        try:
            if not (place / name).is_file():
                continue
            with (place / name).open("rb") as file:
                content = file.read(_LOG_BYTES)
        except OSError:
            yield UNREADABLE
            continue
        for found in pattern.finditer(content):
            yield next(group for group in found.groups() if group).decode("utf-8", "replace").strip()


def _ask(git: Path, *words: str) -> str | None:
    """What git says; "" for nothing, None where it fails."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    options = [word for setting in _QUIET for word in ("-c", setting)]
    command = ["git", "--no-pager", f"--git-dir={git}", *options, *words]
    try:
        done = subprocess.run(
            command, cwd=git.parent, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    nothing = done.returncode == 1 and words[0] == "config" and not done.stderr
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 or nothing else None


def site_of(url: str) -> str:
    """The host of ``url``, with its port where that is not the usual one; "" where it is not clear.

    One name each for the Hub's own hosts and for this machine.
    """
    return _parts(url)[0]


def repo_on(url: str, endpoint: str) -> str | None:
    """The repo at ``url``, if that is one of the Hub at ``endpoint``, beyond doubt; else None."""
    site, path, scheme = _parts(url)
    if not site or site != site_of(endpoint) or scheme not in {urlsplit(endpoint).scheme, "ssh"}:
        return None
    if scheme == "ssh" and site != _HUB:
        return None
    names = path.strip("/").split("/")
    if names[0] in {"datasets", "spaces"}:
        del names[0]
    repo = "/".join(names).removesuffix(".git")
    return None if repo_id_problem(repo) else repo  # the oldest models have no namespace, and are nobody's own


def _parts(url: str) -> tuple[str, str, str]:
    if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", url):  # blanks, backslashes and the like are read in many ways
        return "", "", ""
    scp = None if "://" in url else _SCP.fullmatch(url)
    try:
        parts = urlsplit(f"ssh://{scp[1]}/{scp[2]}" if scp else url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "", "", ""
    if parts.scheme not in _PORTS or parts.query or parts.fragment:
        return "", "", ""
    usual = port in {None, _PORTS[parts.scheme]}
    host = "127.0.0.1" if host in _LOCAL else _HUB if host in _HUB_NAMES and usual else host
    return host if usual else f"{host}:{port}", parts.path, parts.scheme
