"""One file screened: its kind, pickles, secrets, and what its JSON, YAML or front matter reveals."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from hubkit.checks.rules import FRONT_MATTER, JSON, LOCAL_PATH, PICKLE, SAFETENSORS, SECRET, SPECIAL_FILE, TOO_LARGE
from hubkit.checks.screening import local_paths, pickles, secrets, text, weights
from hubkit.core.bounded_json import LARGE, JsonError, JsonLimitError, load_json, too_large
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import os_error
from hubkit.core.findings import Finding
from hubkit.core.front_matter import find_front_matter
from hubkit.core.yaml_text import parse_yaml
from hubkit.models.tensors import open_header

_MAX_YAML = 8 * 1024 * 1024
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"})
"""Files whose words are those of a language: any of them may look like a path."""
_NO_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT}
"""How the system refuses to open what is no regular file."""


def screen_file(path: str, local: Path) -> list[Finding]:
    """The findings about one file's kind and content; at most one of each rule, but for secrets of several kinds."""
    try:
        # Not to wait for a pipe, nor to follow a link, that was put there a moment ago.
        handle = os.open(local, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise os_error(error, local) from error
        return [SPECIAL_FILE.finding(f"{_kind(local)}.", file=path)]
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return [SPECIAL_FILE.finding(f"{_kind(local)}.", file=path)]
    with os.fdopen(handle, "rb") as file:
        return [masked(item) for item in _content(path, file)]


def numbers_of(path: str, local: Path) -> list[Finding]:
    """The finding about a sound safetensors file that holds NaN or infinite numbers; it is read once. Needs numpy."""
    return [masked(item) for item in weights.numbers(path, local)]


def masked(finding: Finding) -> Finding:
    """``finding`` without secrets: a name of a file, a tensor or a key can be one too."""
    file = None if finding.file is None else secrets.mask(finding.file)
    return replace(finding, file=file, message=secrets.mask(finding.message))


def file_mode(local: Path) -> int:
    """The mode of what is at ``local``, links not followed; 0 when there is nothing."""
    try:
        return local.lstat().st_mode
    except OSError:
        return 0


def _content(path: str, file: IO[bytes]) -> list[Finding]:
    if kind := pickles.pickle_in(file):
        return [PICKLE.finding(f"The file {kind}.", file=path)]
    if path.endswith(".safetensors"):
        return list(_safetensors(path, file))
    file.seek(0)
    by_line = sorted(text.secrets_in(file).items(), key=lambda item: item[1])
    found = [SECRET.finding(f"Line {line:,} holds {what}.", file=path, line=line) for what, line in by_line]
    return [*found, *_values(path, file)]


def _safetensors(path: str, file: IO[bytes]) -> Iterator[Finding]:
    try:
        header = open_header(file, path)
    except RefusedError as error:
        yield SAFETENSORS.finding(f"The file {error.message.removeprefix(f'{path} ')}", file=path)
        return
    words = "\n".join((*header.metadata, *header.metadata.values(), *header.tensors))
    if what := secrets.first(words):
        yield SECRET.finding(f"Its header holds {what}.", file=path)
    if (key := local_paths.in_json(dict(header.metadata))) is not None:
        yield LOCAL_PATH.finding(f"Its metadata contains a local path: {_named(key)}.", file=path)


def _values(path: str, file: IO[bytes]) -> Iterator[Finding]:
    """What the values of a JSON or YAML file, or of a card's front matter, reveal of the author's machine."""
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
    size = file.seek(0, 2)
    file.seek(0)
    if suffix == ".json":
        try:
            if problem := too_large(size, LARGE):
                raise JsonLimitError(problem)
            value = load_json(file.read())
        except JsonLimitError as error:
            yield TOO_LARGE.finding(f"The file {error}.", file=path)
            return
        except JsonError:
            yield JSON.finding("The file is not valid JSON.", file=path)
            return
        if name not in _VOCABULARIES and (key := local_paths.in_json(value)) is not None:
            yield LOCAL_PATH.finding(f"It contains a local path: {_named(key)}.", file=path)
    elif suffix in {".yaml", ".yml", ".md"}:
        block, first = file.read(_MAX_YAML).decode("utf-8", "replace"), 1
        if suffix == ".md":
            front = find_front_matter(block)
            block, first = (front.text, front.line) if front else ("", 1)
            yield from _front_matter(path, block, first)
        if line := local_paths.in_yaml(block):
            line += first - 1
            yield LOCAL_PATH.finding(f"Line {line:,} contains a local path.", file=path, line=line)


def _front_matter(path: str, block: str, first: int) -> Iterator[Finding]:
    """Whether the Hub, and any other reader of YAML, will read the same of a card."""
    try:
        value, _ = parse_yaml(block, path, first)
    except UsageError as error:
        yield FRONT_MATTER.finding(error.message.removeprefix(f"{path}:").strip(), file=path)
        return
    if block and not isinstance(value, dict):
        yield FRONT_MATTER.finding("The front matter has no keys.", file=path)


def _named(key: str) -> str:
    return f"the key {key!r}" if key else "a value"


def _kind(local: Path) -> str:
    mode = file_mode(local)
    if stat.S_ISLNK(mode):
        return "A symbolic link"
    return "There is no such file" if not mode else "A folder" if stat.S_ISDIR(mode) else "Not a regular file"
