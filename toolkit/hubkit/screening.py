"""What must not be published, found in files: hostile names, links, pickles, secrets, broken safetensors.

A problem names the file and the rule, never the value that was found. Pickles are refused and not scanned:
scanners miss most ways to run code from one.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hubkit.errors import RefusedError
from hubkit.names import path_problem
from hubkit.tensors import read_header

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz"})
PRIVATE_NAMES = re.compile(
    r"\.env(\..*)?|\.netrc|\.git-credentials|\.npmrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx|kdbx)"
)
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a Hugging Face token", re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("an OpenAI or Anthropic key", re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}\b")),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
)
_LOCAL_PATH = re.compile(r"^(?:/(?:home|root|tmp|mnt|data|Users|var|opt|workspace)[^\s]*|~/|[A-Za-z]:\\|file://)")
_PATH_KEYS = frozenset({"base_model_name_or_path", "_name_or_path", "name_or_path"})
_MAX_TEXT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """Why ``path`` must not be published. ``rule`` is a short name, ``message`` a clause without the value found."""

    path: str
    rule: str
    message: str

    @property
    def sentence(self) -> str:
        """The problem in one line."""
        return f"{self.path!r}: {self.message} [{self.rule}]"


def screen(files: Mapping[str, Path]) -> list[Problem]:
    """Every problem of the tree ``files`` (path in the repo -> local file)."""
    found = list(_names(files))
    sound = {path: local for path, local in files.items() if path not in {problem.path for problem in found}}
    for path, local in sorted(sound.items()):
        found += screen_file(path, local)
    return found + list(_tree(sound))


def _names(files: Iterable[str]) -> Iterator[Problem]:
    folded: dict[str, str] = {}
    for path in sorted(files):
        if problem := path_problem(path):
            yield Problem(path, "name", problem)
        elif folded.setdefault(path.casefold(), path) != path:
            yield Problem(path, "name", f"differs from {folded[path.casefold()]!r} in upper and lower case only")
        elif PRIVATE_NAMES.fullmatch(PurePosixPath(path).name.lower()):
            yield Problem(path, "private-file", "files of this name hold secrets")
        elif PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES:
            yield Problem(path, "pickle", "a format that can run code when it is loaded; use safetensors")


def screen_file(path: str, local: Path) -> list[Problem]:
    """The problems of one file's kind and content; at most one of each rule."""
    mode = local.lstat().st_mode
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        return [Problem(path, "special-file", f"is {what}")]
    with local.open("rb") as file:
        start = file.read(16)
    if _is_pickle(start):
        return [Problem(path, "pickle", "is a pickle or a zip archive by its content, whatever its name says")]
    if path.endswith(".safetensors"):
        try:
            header = read_header(local)
        except RefusedError as error:
            return [Problem(path, "safetensors", error.message.removeprefix(f"{local.name} ").rstrip("."))]
        return _secrets(path, json.dumps(dict(header.metadata)))
    try:
        text = _text(local)
    except UnicodeDecodeError:
        return []
    found = _secrets(path, text)
    if path.endswith(".json"):
        found += _json(path, text)
    return found


def _is_pickle(start: bytes) -> bool:
    """Pickle protocols 2 to 5 begin with 0x80 and their number; torch's own format is a zip archive."""
    return (start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}) or start[:4] == b"PK\x03\x04"


def _text(local: Path) -> str:
    with local.open("rb") as file:
        return file.read(_MAX_TEXT).decode("utf-8", "strict" if local.stat().st_size <= _MAX_TEXT else "replace")


def _secrets(path: str, text: str) -> list[Problem]:
    return [
        Problem(path, "secret", f"line {text.count(chr(10), 0, found.start()) + 1} holds {what}")
        for what, pattern in _SECRETS
        if (found := pattern.search(text))
    ]


def _json(path: str, text: str) -> list[Problem]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [Problem(path, "json", "is not valid JSON")]
    if PurePosixPath(path).name == "tokenizer.json":  # its vocabulary may hold anything
        return []
    for key, item in _strings(value):
        if _LOCAL_PATH.match(item) or (key in _PATH_KEYS and item.startswith((".", "/"))):
            return [Problem(path, "local-path", f"{key or 'a value'} names a place on the machine that made it")]
    return []


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a JSON value with the key under which it stands."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)


def _tree(files: Mapping[str, Path]) -> Iterator[Problem]:
    """What is only seen on the whole tree."""
    if "config.json" in files and "adapter_config.json" in files:
        yield Problem("adapter_config.json", "adapter-at-root", "loaders would attach the adapter to merged weights")
    weights = {path for path in files if "/" not in path and path.endswith(".safetensors")}
    index = files.get("model.safetensors.index.json")
    if index is not None:
        yield from _index(index, files, weights)
    elif len(weights) > 1:
        yield Problem("model.safetensors.index.json", "shards", "is missing beside several weight files")


def _index(index: Path, files: Mapping[str, Path], weights: set[str]) -> Iterator[Problem]:
    name = "model.safetensors.index.json"
    try:
        named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = set(named.values())
        for shard in sorted(shards - weights):
            yield Problem(name, "shards", f"names {shard!r}, which is not there")
        for shard in sorted(weights - shards):
            yield Problem(shard, "shards", f"is not named in {name}")
        for shard in sorted(weights & shards):
            held = read_header(files[shard]).tensors.keys()
            if held != {tensor for tensor, place in named.items() if place == shard}:
                yield Problem(shard, "shards", f"does not hold the tensors that {name} says")
    except (RefusedError, ValueError, KeyError, AttributeError, TypeError):
        yield Problem(name, "shards", "cannot be read, or names a shard that cannot")
