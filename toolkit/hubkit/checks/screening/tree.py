"""All files of a model screened together, before they are published. Whatever is found refuses the publication.

A finding names the file and the rule, never the value that was found. Pickles are refused and not scanned: scanners
miss most ways to run code from one.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from hubkit.checks.rules import ADAPTER_AT_ROOT, PICKLE, SPECIAL_FILE
from hubkit.checks.screening import filenames, weights
from hubkit.checks.screening.file import file_mode, masked, screen_file
from hubkit.core.findings import Finding


def screen(files: Mapping[str, Path], *, finite: Collection[str] = (), fits: bool = True) -> list[Finding]:
    """Every finding for the tree ``files`` (path in the repo -> local file).

    ``finite`` are paths whose numbers are known to be neither NaN nor infinite: they are not read for it. Without
    ``fits``, and where torch and transformers are not installed, tensors are not compared with config.json.
    """
    found = list(filenames.find(files))
    sound = {path: files[path] for path in sorted(files.keys() - {item.file for item in found})}
    for path, local in sound.items():
        found += screen_file(path, local)
    regular = {path: local for path, local in sound.items() if stat.S_ISREG(file_mode(local))}
    found += _hard_links(regular)
    refused = {item.file for item in found if item.rule in {PICKLE.id, SPECIAL_FILE.id}}
    readable = {path: local for path, local in regular.items() if path not in refused}
    found += weights.find(readable, finite, fits=fits)
    if "config.json" in sound and "adapter_config.json" in sound:
        found.append(
            ADAPTER_AT_ROOT.finding(
                "Loaders would attach the adapter to the merged weights.", file="adapter_config.json"
            )
        )
    return [masked(item) for item in found]


def screen_names(paths: Iterable[str]) -> list[Finding]:
    """The findings about the names of a tree that holds ``paths``."""
    return [masked(item) for item in filenames.find(paths)]


def _hard_links(files: Mapping[str, Path]) -> Iterator[Finding]:
    """Files that have another name outside the tree, by which they can be changed."""
    status = {path: local.lstat() for path, local in files.items()}
    names = Counter((item.st_dev, item.st_ino) for item in status.values())
    for path, item in status.items():
        if item.st_nlink > names[item.st_dev, item.st_ino]:
            yield SPECIAL_FILE.finding("A hard link: the file has another name elsewhere.", file=path)
