"""How many rows a dataset on a Hub has, and how long they are, without downloading it: from its card or its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_yaml import YamlError, load_bounded
from hubkit.core.front_matter import find_front_matter
from hubkit.recipe.models import Source

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

_SAMPLE = 64 * 1024
_ROWS = 1000
_PACKED = 3
"""About how many times the text is longer than a file that is compressed."""
_TEXT_FILES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Listed:
    """``rows`` of one split, the mean ``row_bytes`` of its text (None when unknown), and ``found`` in words."""

    rows: int | None = None
    row_bytes: float | None = None
    found: str = "neither its card nor the size of its files says it"


def look_up(hub: Hub, source: Source) -> Listed:
    """What the card or the files of ``source`` say. HubkitError when the Hub does not answer."""
    if source.repo is None:
        raise ValueError("files are counted by rows_of_files")
    readme = hub.read_file(source.repo, "README.md", source.revision, "dataset")
    on_card = rows_on_card(readme or b"", source.split, source.config)
    by_size = on_card if on_card.row_bytes is not None else _with_files(on_card, rows_by_size(hub, source))
    return _of_slice(by_size, source.split)


def rows_of_files(paths: Sequence[Path]) -> Listed:
    """About how many rows the files ``paths`` hold: their bytes by those of a row at the head of the largest."""
    from hubkit.training.data.files import rows

    if not paths:
        return Listed(found="its files are not there")
    largest = max(paths, key=lambda path: path.stat().st_size)
    head = list(islice(rows([largest]), _ROWS))
    size = sum(path.stat().st_size for path in paths)
    if not head:
        return Listed()
    text = sum(len(str(row)) for row in head) / len(head)
    if len(head) < _ROWS:
        return Listed(round(len(head) * size / largest.stat().st_size), text, "by counting")
    packed = largest.suffix in (".gz", ".parquet")
    return Listed(round(size * (_PACKED if packed else 1) / text), text, "by the size of its files")


def _of_slice(listed: Listed, split: str) -> Listed:
    """What of ``listed`` the slice in ``split`` takes, where it is one slice from the first row on."""
    found = re.fullmatch(r"[^\[+]+\[(\d+%?)?:(\d+%?)\]", split)
    if found is None or listed.rows is None:
        return listed
    total = listed.rows
    begin, end = (
        total * int(bound[:-1]) // 100 if bound.endswith("%") else int(bound) for bound in (found[1] or "0", found[2])
    )
    return Listed(max(0, min(total, end) - begin), listed.row_bytes, listed.found)


def _with_files(on_card: Listed, by_size: Listed) -> Listed:
    """The rows that the card states, else those of the files, with the bytes of the files."""
    return by_size if on_card.rows is None else Listed(on_card.rows, by_size.row_bytes, on_card.found)


def rows_on_card(readme: bytes, split: str, config: str | None = None) -> Listed:
    """What a dataset's card states of ``split`` under ``dataset_info``, and of ``config`` where it is named."""
    split = split.partition("[")[0]
    head = find_front_matter(readme.decode("utf-8", "replace"))
    try:
        card = load_bounded(head.text) if head else None
    except YamlError:
        return Listed()
    about = card.get("dataset_info") if isinstance(card, dict) else None
    for listed in about if isinstance(about, list) else [about]:
        if config is not None and isinstance(listed, dict) and listed.get("config_name", config) != config:
            continue
        for item in (listed.get("splits") or []) if isinstance(listed, dict) else []:
            rows = _number(item, "num_examples") if isinstance(item, dict) and item.get("name") == split else None
            if rows:
                nbytes = _number(item, "num_bytes")
                return Listed(rows, nbytes / rows if nbytes else None, "from its card")
    return Listed()


def _number(item: dict[str, Any], key: str) -> int | None:
    value = item.get(key)
    return value if isinstance(value, int) and value > 0 else None


def rows_by_size(hub: Hub, source: Source) -> Listed:
    """About how many rows JSON lines or CSV hold: their bytes by those of a line at the head of the largest file."""
    if source.repo is None:
        return Listed()
    tree = hub.tree(source.repo, source.revision, "dataset")
    files = {path: entry.size for path, entry in tree.items() if path.endswith(_TEXT_FILES) and entry.size}
    of_split = {path: size for path, size in files.items() if source.split.partition("[")[0] in path} or files
    if not of_split:
        return Listed()
    path, size = max(of_split.items(), key=lambda item: item[1])
    head = hub.read_range(source.repo, path, source.revision, 0, min(size, _SAMPLE), "dataset")
    lines = head.count(b"\n") + (size <= _SAMPLE and not head.endswith(b"\n"))
    whole = len(head) if size <= _SAMPLE else head.rfind(b"\n") + 1
    if not lines or not whole:
        return Listed()
    line = whole / lines
    return Listed(round(sum(of_split.values()) / line), line, "by the size of its files")
