"""What must not be published, found in files: hostile names, links, pickles, secrets, unsound weights.

    problems = screen({"config.json": Path("out/config.json"), "model.safetensors": Path("out/model.safetensors")})

A problem names the file and the rule, never the value that was found. Pickles are refused and not scanned:
scanners miss most ways to run code from one.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from hubkit.checks.screening import content, filenames, places, secrets, text, weights
from hubkit.checks.screening.filenames import PICKLE_SUFFIXES
from hubkit.checks.screening.problem import Problem
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import os_error
from hubkit.core.yaml_text import parse_yaml
from hubkit.models.tensors import open_header

__all__ = ["PICKLE_SUFFIXES", "Problem", "numbers_of", "screen", "screen_file", "screen_names"]

_MAX_JSON = 64 * 1024 * 1024
_MAX_YAML = 8 * 1024 * 1024
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"})
"""Files whose words are those of a language: any of them may look like a place."""


def screen(files: Mapping[str, Path], *, finite: Collection[str] = (), fits: bool = True) -> list[Problem]:
    """Every problem of the tree ``files`` (path in the repo -> local file).

    ``finite`` are paths whose numbers are known to be neither NaN nor infinite: they are not read for it. Without
    ``fits``, and where torch and transformers are not installed, tensors are not held against config.json.
    """
    found = list(filenames.problems(files))
    sound = {path: files[path] for path in sorted(files.keys() - {problem.path for problem in found})}
    for path, local in sound.items():
        found += screen_file(path, local)
    regular = {path: local for path, local in sound.items() if stat.S_ISREG(_mode(local))}
    found += _hard_links(regular)
    refused = {problem.path for problem in found if problem.rule in {"pickle", "special-file"}}
    found += weights.problems(
        {path: local for path, local in regular.items() if path not in refused}, finite, fits=fits
    )
    if "config.json" in sound and "adapter_config.json" in sound:
        found.append(
            Problem("adapter_config.json", "adapter-at-root", "loaders would attach the adapter to merged weights")
        )
    return [_masked(problem) for problem in found]


def screen_names(paths: Iterable[str]) -> list[Problem]:
    """The problems of the names of a tree that holds ``paths``."""
    return [_masked(problem) for problem in filenames.problems(paths)]


def screen_file(path: str, local: Path) -> list[Problem]:
    """The problems of one file's kind and content; at most one of each rule, but for secrets of several kinds."""
    try:
        # Not to be kept waiting by a pipe, nor led astray by a link, that was put there a moment ago.
        handle = os.open(local, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT}:
            raise os_error(error, local) from error
        return [Problem(path, "special-file", f"is {_kind(local)}")]
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return [Problem(path, "special-file", f"is {_kind(local)}")]
    with os.fdopen(handle, "rb") as file:
        return [_masked(problem) for problem in _content(path, file)]


def numbers_of(path: str, local: Path) -> list[Problem]:
    """The problem of a sound safetensors file that holds NaN or infinite numbers; it is read once. Needs numpy."""
    return [_masked(problem) for problem in weights.numbers(path, local)]


def _content(path: str, file: IO[bytes]) -> list[Problem]:
    if said := content.pickle_in(file):
        return [Problem(path, "pickle", said)]
    if path.endswith(".safetensors"):
        return list(_safetensors(path, file))
    file.seek(0)
    found = [
        Problem(path, "secret", f"line {line:,} holds {what}")
        for what, line in sorted(text.secrets_in(file).items(), key=lambda item: item[1])
    ]
    return [*found, *_values(path, file)]


def _safetensors(path: str, file: IO[bytes]) -> Iterator[Problem]:
    try:
        header = open_header(file, path)
    except RefusedError as error:
        yield Problem(path, "safetensors", error.message.removeprefix(f"{path} ").rstrip("."))
        return
    words = "\n".join((*header.metadata, *header.metadata.values(), *header.tensors))
    if what := secrets.first(words):
        yield Problem(path, "secret", f"its header holds {what}")
    if (key := places.in_json(dict(header.metadata))) is not None:
        yield Problem(path, "local-path", f"{_named(key)} of its metadata names a place on the machine that made it")


def _values(path: str, file: IO[bytes]) -> Iterator[Problem]:
    """What the values of a JSON or YAML file, or of a card's front matter, say of the machine that made them."""
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
    size = file.seek(0, 2)
    file.seek(0)
    if suffix == ".json":
        if size > _MAX_JSON:
            return
        try:
            value = json.loads(file.read())
        except (ValueError, RecursionError):
            yield Problem(path, "json", "is not valid JSON")
            return
        if name not in _VOCABULARIES and (key := places.in_json(value)) is not None:
            yield Problem(path, "local-path", f"{_named(key)} names a place on the machine that made it")
    elif suffix in {".yaml", ".yml", ".md"}:
        said = file.read(_MAX_YAML).decode("utf-8", "replace")
        before = 0
        if suffix == ".md":
            said, before = places.front_matter(said) or "", 1
            yield from _front_matter(path, said)
        if line := places.in_yaml(said):
            yield Problem(path, "local-path", f"line {line + before:,} names a place on the machine that made it")


def _front_matter(path: str, said: str) -> Iterator[Problem]:
    """Whether the Hub, and any other reader of YAML, will read the same of a card."""
    try:
        value, _ = parse_yaml(said, path)
    except UsageError as error:
        yield Problem(path, "front-matter", error.message.removeprefix(f"{path}:").strip().rstrip("."))
        return
    if said and not isinstance(value, dict):
        yield Problem(path, "front-matter", "its front matter has no keys")


def _named(key: str) -> str:
    return repr(key) if key else "a value"


def _masked(problem: Problem) -> Problem:
    """A name of a file, a tensor or a key can be a secret too."""
    return replace(problem, path=secrets.mask(problem.path), message=secrets.mask(problem.message))


def _mode(local: Path) -> int:
    try:
        return local.lstat().st_mode
    except OSError:
        return 0


def _kind(local: Path) -> str:
    mode = _mode(local)
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "not there" if not mode else "a folder" if stat.S_ISDIR(mode) else "not a regular file"


def _hard_links(files: Mapping[str, Path]) -> Iterator[Problem]:
    """Files that have another name outside the tree, by which they can be changed."""
    found = {path: local.lstat() for path, local in files.items()}
    names = Counter((item.st_dev, item.st_ino) for item in found.values())
    for path, item in found.items():
        if item.st_nlink > names[item.st_dev, item.st_ino]:
            yield Problem(path, "special-file", "is a hard link: the file has another name elsewhere")
