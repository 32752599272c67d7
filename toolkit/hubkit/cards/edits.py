"""Keeps edits that people made to a card on the Hub when the next release writes the card again.

    kept = keep_edits(before, now, new)      # as generated last time, as it is on the Hub, as generated this time
    kept.text, kept.kept, kept.conflicts

A generated card consists of regions, each between two comments that a reader of the page does not see:

    <!-- hubkit:begin head -->  ...  <!-- hubkit:end head -->

Text outside of them is the person's and stays where it is; so does text inside a region between ``<!-- mine -->`` and
``<!-- /mine -->``. Whoever wants a region for good renames its marks: between ``<!-- mine head -->`` and
``<!-- /mine -->`` stands the person's head, and ours is left out. Beyond that a region, like a key of the metadata,
that only one side changed is that side's; where both did, it is a conflict, and nothing is decided here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.cards.metadata import dump_block, read_block
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.front_matter import find_front_matter

UNMARKED_REGION = "card"
"""The name of the only region of a card without markers."""
_MARK = re.compile(r"<!-- (?:hubkit:(begin|end) ([A-Za-z0-9_-]+)|(mine)(?: ([A-Za-z0-9_-]+))?|(/mine)) -->[ \t]*")
_FENCE = re.compile(r" {0,3}(?:(`{3,})([^`]*)|(~{3,})(.*))")
_SHOWN = 12


@dataclass(frozen=True)
class Conflict:
    """A place that was edited on the Hub and that this release also changes. ``edit`` shows the edit."""

    where: str
    edit: tuple[str, ...]


@dataclass(frozen=True)
class MergedCard:
    """A card that includes the edits. ``kept`` names the edited places; a conflict keeps the release's text."""

    text: str
    kept: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


class _Damaged(Exception):
    """The section markers of a card do not match."""


@dataclass(frozen=True)
class _Part:
    """A region by its name, or (``name`` None) a person's own text. ``text`` has no empty lines at its ends."""

    name: str | None
    text: str
    claimed: str | None = None


def keep_edits(before: str | None, now: str | None, new: str) -> MergedCard:
    """``new`` with the edits that the card ``now`` on the Hub has over ``before``, its form when it was generated.

    All three are whole cards. ``now`` None: there is no card there; ``before`` None: no release of hubkit wrote it.
    """
    if now is None:
        return MergedCard(new)
    now = _lines(now)
    if before is not None and now.strip() == _lines(before).strip():
        return MergedCard(new)
    try:
        front, front_kept, front_conflicts = _front(before, now, new)
    except YamlError:
        return MergedCard(new, (), (_conflict("the metadata, which is not valid YAML", _head(before), _head(now)),))
    found_before, found_now, found_new = (_body(text) if text else "" for text in (before, now, new))
    if not found_now.strip() and not found_before.strip():
        merged = _Merged(found_new, [], [])
    elif before is None:
        merged = _Merged(found_new, [], [_conflict("the whole card: it was not written by hubkit", "", found_now)])
    else:
        merged = _regions(found_before, found_now, found_new)
    if before is not None and _lines(before).strip() == new.strip():
        return MergedCard(now, (*front_kept, *merged.kept) or ("the card",))
    text = f"---\n{front}\n---\n\n{merged.text}"
    return MergedCard(text, (*front_kept, *merged.kept), (*front_conflicts, *merged.conflicts))


def without_stray_markers(body: str) -> str:
    """A generated ``body`` with all text inside regions; if text or markers are outside, all markers are removed."""
    try:
        if all(part.name for part in _parts(body)):
            return body
    except _Damaged:
        pass
    kept, last = [], 0
    for _, _, start, end in _marks(body):
        kept.append(body[last:start])
        last = end
    return "".join([*kept, body[last:]]).strip("\n") + "\n"


@dataclass(frozen=True)
class _Merged:
    text: str
    kept: list[str]
    conflicts: list[Conflict]


def _regions(before: str, now: str, new: str) -> _Merged:
    """The bodies, region by region."""
    try:
        old, mine, ours = list(_parts(before)), list(_parts(now)), list(_parts(new))
    except _Damaged as error:
        return _Merged(new, [], [_conflict(f"the card: its section markers do not match ({error})", before, now)])
    was = {part.name: part.text for part in old if part.name}
    theirs = {part.name: part.text for part in mine if part.name}
    wanted = {part.name: part.text for part in ours if part.name}
    claimed = {part.claimed for part in mine if part.claimed}
    if not theirs.keys() & was.keys() and not claimed:
        return _Merged(new, [], [_conflict("the card: its section markers were removed", before, now)])
    own = _anchored(mine, wanted)
    done: list[str] = [*own.get(None, [])]
    kept: list[str] = ["your own text"] if own else []
    conflicts: list[Conflict] = []
    for name, text in wanted.items():
        if name not in claimed:
            said, is_theirs, conflict = _region(name, was.get(name), theirs.get(name), text)
            done += [_marked(name, said)] if said is not None else []
            kept += [f"`{name}`"] if is_theirs else []
            conflicts += [conflict] if conflict else []
        done += own.get(name, [])
    for name in claimed & theirs.keys():
        if name in was and _without_mine(theirs[name]) != was[name]:
            conflicts.append(
                _conflict(
                    f"section `{name}`: claimed with <!-- mine {name} --> and also edited in place",
                    was[name],
                    theirs[name],
                )
            )
    for name, text in theirs.items():
        if name not in wanted and _without_mine(text) != was.get(name):
            conflicts.append(_conflict(f"section `{name}`: removed from the template", was.get(name, ""), text))
        elif name not in wanted and (left := _mine(text)):
            done += left
            kept.append("your own text")
    return _Merged("\n\n".join(done) + "\n", list(dict.fromkeys(kept)), conflicts)


def _region(name: str, was: str | None, theirs: str | None, ours: str) -> tuple[str | None, bool, Conflict | None]:
    """(text or None: left out, whether it is the person's, conflict) of one region."""
    if theirs is None:
        if was is None:
            return ours, False, None
        if was == ours:
            return None, True, None
        return ours, False, _conflict(f"`{name}`", was, "")
    rest, inside = _without_mine(theirs), _mine(theirs)
    if rest == ours:
        return theirs, bool(inside), None
    if rest == was:
        return "\n\n".join([ours, *inside]), bool(inside), None
    if was == ours:
        return theirs, True, None
    return "\n\n".join([ours, *inside]), bool(inside), _conflict(f"`{name}`", was or "", rest)


def _anchored(mine: list[_Part], wanted: Mapping[str, str]) -> dict[str | None, list[str]]:
    """The person's own texts, by the region of the new card after which they stand (None: before all)."""
    found: dict[str | None, list[str]] = {}
    last: str | None = None
    for part in mine:
        if part.claimed in wanted:
            last = part.claimed
        if part.name is None:
            found.setdefault(last, []).append(part.text)
        elif part.name in wanted:
            last = part.name
    return found


def _front(before: str | None, now: str, new: str) -> tuple[str, list[str], list[Conflict]]:
    """The metadata, key by key: (YAML, keys that are a person's, conflicts)."""
    head = _head(new)
    old, mine, ours = (read_block(text) or {} if text else {} for text in (before, now, new))
    if old == mine or ours == mine:
        return head, [], []
    if old == ours:
        return _head(now), [f"`{key}`" for key in mine.keys() | old.keys() if mine.get(key) != old.get(key)], []
    said: dict[str, Any] = {}
    kept: list[str] = []
    conflicts: list[Conflict] = []
    for key in dict.fromkeys([*ours, *mine]):
        was, theirs, value = old.get(key), mine.get(key), ours.get(key)
        if theirs in (was, value):
            chosen = value
        elif was == value:
            chosen = theirs
        elif all(item is None or _words(item) for item in (was, theirs, value)):
            gone = set(was or ()) - set(theirs or ())
            added = [item for item in theirs or () if item not in (was or ())]
            chosen = list(dict.fromkeys([item for item in value or () if item not in gone] + added))
        else:
            chosen = value
            conflicts.append(_conflict(f"the metadata's `{key}`", f"{was}", f"{theirs}"))
        if chosen != value:
            kept.append(f"`{key}`")
        if chosen is not None:
            said[key] = chosen
    return (head if said == ours else dump_block(said)), kept, conflicts


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _split(text: str) -> tuple[str, str]:
    """(YAML, body) of the card ``text``."""
    found = find_front_matter(text, exact=True)
    return (found.text, text[found.end :]) if found else ("", text)


def _head(text: str | None) -> str:
    return _split(_lines(text))[0] if text else ""


def _body(text: str) -> str:
    return _split(_lines(text))[1].lstrip("\n")


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parts(body: str) -> Iterator[_Part]:
    """The regions and the person's own texts of ``body``, in order. A body without marks is one region."""
    marks = list(_marks(body))
    if not marks:
        yield _Part(UNMARKED_REGION, body.strip("\n"))
        return
    seen: set[str] = set()
    last, opened = 0, None
    for kind, name, start, end in marks:
        if kind == "begin":
            if opened or name is None or name in seen:
                raise _Damaged(f"`{name}` begins inside another section, or twice")
            yield from _own(body[last:start])
            opened, last = name, end
            seen.add(name)
        elif kind == "end":
            if opened != name:
                raise _Damaged(f"`{name}` ends without a beginning")
            yield _Part(name, body[last:start].strip("\n"))
            opened, last = None, end
    if opened:
        raise _Damaged(f"`{opened}` does not end")
    yield from _own(body[last:])


def _own(text: str) -> Iterator[_Part]:
    """``text`` outside of all regions as one part for each region that it replaces, or one part."""
    starts = [start for kind, name, start, _ in _marks(text) if kind == "mine" and name]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        piece = text[start:end].strip("\n")
        if piece.strip():
            first = next(iter(_marks(piece)), None)
            yield _Part(None, piece, first[1] if first and first[0] == "mine" and piece.startswith("<!-- ") else None)


def _marks(body: str) -> Iterator[tuple[str, str | None, int, int]]:
    """(kind, name, start, end) of each marker that is alone on a line, outside of fenced blocks."""
    place = 0
    fence: str | None = None
    for bare in body.split("\n"):
        end = min(place + len(bare) + 1, len(body))
        found = _FENCE.fullmatch(bare)
        if found:
            run, rest = (found[1], found[2]) if found[1] else (found[3], found[4])
            if fence is None:
                fence = run
            elif run.startswith(fence) and not rest.strip():
                fence = None
        elif fence is None and (mark := _MARK.fullmatch(bare)):
            yield mark[1] or mark[3] or mark[5], mark[2] or mark[4], place, end
        place = end


def _mine_places(text: str) -> list[tuple[int, int]]:
    """Where the person's own texts stand inside the region ``text``: from each ``mine`` to its ``/mine``."""
    found: list[tuple[int, int]] = []
    opened: int | None = None
    for kind, _, start, end in _marks(text):
        if kind == "mine" and opened is None:
            opened = start
        elif kind == "/mine" and opened is not None:
            found.append((opened, end))
            opened = None
    return [*found, (opened, len(text))] if opened is not None else found


def _mine(text: str) -> list[str]:
    return [text[start:end].strip("\n") for start, end in _mine_places(text)]


def _without_mine(text: str) -> str:
    parts, last = [], 0
    for start, end in _mine_places(text):
        parts.append(text[last:start].strip("\n"))
        last = end
    parts.append(text[last:].strip("\n"))
    return "\n\n".join(part for part in parts if part)


def _marked(name: str, text: str) -> str:
    return text if name == UNMARKED_REGION else f"<!-- hubkit:begin {name} -->\n{text}\n\n<!-- hubkit:end {name} -->"


def _conflict(where: str, before: str | None, now: str) -> Conflict:
    lines = difflib.unified_diff((before or "").split("\n"), now.split("\n"), n=0, lineterm="")
    edit = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    more = [f"... and {len(edit) - _SHOWN} more lines"] if len(edit) > _SHOWN else []
    return Conflict(where, (*(line[:160] for line in edit[:_SHOWN]), *more))
