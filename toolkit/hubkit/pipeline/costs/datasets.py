"""How many rows a dataset on a Hub has, and how long they are, without downloading it: from its card or its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_yaml import YamlError, load_bounded
from hubkit.core.front_matter import find_front_matter
from hubkit.recipe.models import Source

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

_SAMPLE = 64 * 1024
_TEXT_FILES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Listed:
    """``rows`` of one split, the mean ``row_bytes`` of its text (None when unknown), and ``found`` in words."""

    rows: int | None = None
    row_bytes: float | None = None
    found: str = "neither its card nor the size of its files says it"


def look_up(hub: Hub, source: Source) -> Listed:
    """What the card or the files of ``source`` say. HubkitError when the Hub does not answer."""
    readme = hub.read_file(source.repo, "README.md", source.revision, "dataset")
    on_card = rows_on_card(readme or b"", source.split)
    return on_card if on_card.row_bytes is not None else _with_files(on_card, rows_by_size(hub, source))


def _with_files(on_card: Listed, by_size: Listed) -> Listed:
    """The rows that the card states, else those of the files, with the bytes of the files."""
    return by_size if on_card.rows is None else Listed(on_card.rows, by_size.row_bytes, on_card.found)


def rows_on_card(readme: bytes, split: str) -> Listed:
    """What a dataset's card states of ``split`` under ``dataset_info``."""
    head = find_front_matter(readme.decode("utf-8", "replace"))
    try:
        card = load_bounded(head.text) if head else None
    except YamlError:
        return Listed()
    about = card.get("dataset_info") if isinstance(card, dict) else None
    for config in about if isinstance(about, list) else [about]:
        for item in (config.get("splits") or []) if isinstance(config, dict) else []:
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
