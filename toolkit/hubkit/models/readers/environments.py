"""The environment of a reader: its pinned packages, installed once under hubkit's home, from PyPI or npm.

readers/transformers-4-3f2a…/     a virtual environment, or a folder with node_modules

An environment is complete when it has the file INSTALLED, which is written last; its time is that of the last use.

torch is not what is tested, and a second copy is large: the environment has links to the torch that hubkit runs with,
and to what torch needs beyond the pinned packages (CUDA's libraries).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from hubkit.core.errors import RemoteError, UsageError
from hubkit.core.processes.parent import allowed_environment, kill_group
from hubkit.models.readers.readers import Reader

_SECONDS = 3600
"""How long an installation may take: llama-cpp-python is compiled."""
_MARK = "INSTALLED"
_DAYS = 7
"""How long an environment of other pinned packages, or of another Python or torch, is kept after its last use."""
_NETWORK = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "PIP_FIND_LINKS", "PIP_CACHE_DIR", "HOME",
    "XDG_CACHE_HOME", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "npm_config_registry", "npm_config_cache",
    "CMAKE_ARGS", "CC", "CXX",
)  # fmt: skip
"""Variables of pip and npm that an installation needs beside those of any child."""


def environment(reader: Reader, home: Path, report: Callable[[str], None]) -> Path:
    """The folder of ``reader``'s environment in hubkit's ``home``; it is installed when it is not there yet.

    Environments of ``reader`` that were not used for a week are removed then. UsageError when pip or npm is missing,
    RemoteError when they cannot install it.
    """
    folder = _folder(reader, home)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(folder)):
        if not _complete(reader, folder):
            report(f"{reader.name}: installing its packages")
            _clear(folder)
            # Another name each time: the pip of a hubkit that was killed may still write into the last one.
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
            try:
                (_install_by_npm if reader.by_npm else _install_by_pip)(reader, partial)
                (partial / _MARK).touch()
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            _remove_unused(reader, folder)
        (folder / _MARK).touch()
    return folder


def installed(reader: Reader, home: Path) -> bool:
    """Whether ``reader`` needs no installation in hubkit's ``home``."""
    return reader.lock is None or _complete(reader, _folder(reader, home))


def _folder(reader: Reader, home: Path) -> Path:
    return home / "readers" / f"{reader.name}-{_digest(reader)}"


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _complete(reader: Reader, folder: Path) -> bool:
    """Whether all was installed, and the Python that the environment has a link to is still there."""
    return (folder / _MARK).is_file() and (reader.by_npm or (folder / "bin" / "python").exists())


def _clear(folder: Path) -> None:
    """Remove what an installation into ``folder`` left that did not end. Its lock is held.

    UsageError when it cannot be removed.
    """
    for path in folder.parent.glob(f".{folder.name}.partial*"):
        shutil.rmtree(path, ignore_errors=True)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"{folder} is incomplete and cannot be removed: {error}.", hint=f"Remove {folder}.") from error


def _remove_unused(reader: Reader, kept: Path) -> None:
    """Remove the other environments of ``reader``, unless one was used this week or is being installed."""
    name = re.compile(rf"\.?({re.escape(reader.name)}-[0-9a-f]{{12}})(\.partial.*)?")
    found = {kept.with_name(match[1]) for path in kept.parent.iterdir() if (match := name.fullmatch(path.name))}
    for folder in found - {kept}:
        with contextlib.suppress(Timeout, UsageError), FileLock(_lock(folder), timeout=0):
            mark = folder / _MARK
            if not mark.is_file() or mark.stat().st_mtime < time.time() - _DAYS * 86_400:
                _clear(folder)


def command(reader: Reader, folder: Path | None) -> list[str]:
    """What runs ``reader``'s script in the environment ``folder``; None is the one that runs hubkit."""
    if reader.by_npm:
        return [_found("node", "Node 20 or later"), str(reader.script)]
    python = Path(sys.executable) if folder is None else folder / "bin" / "python"
    return [str(python), "-I", "-X", "utf8", str(reader.script)]


def pins(reader: Reader) -> dict[str, str]:
    """The versions of ``reader``'s packages, by their normalized names; empty for npm."""
    if reader.lock is None or reader.by_npm:
        return {}
    lines = reader.lock.read_text("utf-8").split()
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def _digest(reader: Reader) -> str:
    """Names the pinned packages, this Python and its torch."""
    assert reader.lock is not None
    files = sorted(reader.lock.iterdir()) if reader.by_npm else [reader.lock]
    parts = [path.read_bytes() for path in files]
    if not reader.by_npm:
        parts += [sys.version.encode(), sys.base_prefix.encode()]
        parts += [str(path).encode() for path in _linked(reader)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _install_by_pip(reader: Reader, folder: Path) -> None:
    assert reader.lock is not None
    try:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    except ValueError as error:  # a path with the separator of PATH
        raise UsageError(
            f"There can be no virtual environment in {folder.parent}: its name has a ':'.",
            hint="Set HUBKIT_HOME to another folder.",
        ) from error
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for path in _linked(reader):
        (packages / path.name).symlink_to(path)
    try:
        distribution("pip")
    except PackageNotFoundError as error:
        raise UsageError("pip is not installed.", hint="python -m ensurepip.") from error
    _run(
        reader,
        [
            sys.executable, "-P", "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
            "--disable-pip-version-check", "--no-input", "--no-deps", "--requirement", str(reader.lock),
        ],
    )  # fmt: skip


def _install_by_npm(reader: Reader, folder: Path) -> None:
    assert reader.lock is not None
    for path in reader.lock.iterdir():
        shutil.copyfile(path, folder / path.name)
    npm = _found("npm", "Node 20 or later, with npm")
    _run(reader, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])


def _run(reader: Reader, arguments: list[str]) -> None:
    """Run pip or npm; it and what it started end with this call, also when that is interrupted."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            env=allowed_environment(_NETWORK), start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RemoteError(
                f"Installing {reader.name} took more than an hour.", hint="Run the command again."
            ) from error
        finally:
            kill_group(process.pid)
            process.wait()
        errors.seek(0)
        lines = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code:
        why = next((line for line in lines if line.lower().startswith("error")), (lines or ["no message"])[-1])
        raise RemoteError(
            f"The packages of {reader.name} could not be installed: {why[:300]}",
            hint="Check the connection to the package index, and run the command again.",
        )


def _found(program: str, what: str) -> str:
    if (path := shutil.which(program)) is None:
        raise UsageError(f"{program} is not installed.", hint=f"Install {what}, or leave out transformers-js.")
    return path


def _linked(reader: Reader) -> list[Path]:
    """What of this environment is linked into ``reader``'s: torch, and what it needs that is not pinned there."""
    pinned = pins(reader)
    if "transformers" not in pinned:
        return []
    return sorted({path for found in _needed("torch", set(pinned)) for path in _top_level(found)})


def _needed(name: str, known: set[str]) -> Iterator[Distribution]:
    """The installed distribution ``name`` and those that it requires, save the ``known`` ones."""
    known.add(_normal(name))
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    yield found
    for line in found.requires or ():
        wanted = Requirement(line)
        if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and _normal(wanted.name) not in known:
            yield from _needed(wanted.name, known)


def _top_level(found: Distribution) -> Iterator[Path]:
    """Where the files of a distribution lie: its folders, modules and metadata in site-packages."""
    first = {path.parts[0] for path in found.files or () if path.parts[0] not in {"..", "__pycache__"}}
    for name in first:
        path = Path(str(found.locate_file(name)))
        if path.exists():
            yield path


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
