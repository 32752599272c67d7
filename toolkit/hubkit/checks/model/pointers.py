"""Git-lfs pointers: what stands in a checkout for a large file that was not downloaded. No library can read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from hubkit.checks.rules import LFS_POINTER
from hubkit.checks.source import Source
from hubkit.core.findings import Finding
from hubkit.core.trees import short_list

_SPEC = b"version https://git-lfs.github.com/spec/v1\n"
_LONGEST = 1024
"""Bytes of a pointer at most, by the specification of git-lfs."""
_OID = re.compile(rb"\noid sha256:[0-9a-f]{64}\n")


def is_pointer(content: bytes) -> bool:
    """Whether ``content``, all of a file, is a git-lfs pointer."""
    return len(content) <= _LONGEST and content.startswith(_SPEC) and _OID.search(content) is not None


def pointers_in(source: Source) -> frozenset[str]:
    """The files of a folder that are pointers. None of a repo is: the Hub serves the content, and takes no other."""
    if source.commit is not None:
        return frozenset()
    return frozenset(
        path
        for path, entry in source.files().items()
        if len(_SPEC) < entry.size <= _LONGEST and is_pointer(source.read(path))
    )


def find(pointers: Collection[str]) -> Iterator[Finding]:
    """The finding about ``pointers``."""
    if not pointers:
        return
    names = sorted(pointers)
    verb = "is a git-lfs pointer" if len(names) == 1 else "are git-lfs pointers"
    yield LFS_POINTER.finding(
        f"{short_list(names)} {verb}: a few lines of text in place of the content.",
        "Run `git lfs install` and `git lfs pull` in the folder.",
        file=names[0],
    )
