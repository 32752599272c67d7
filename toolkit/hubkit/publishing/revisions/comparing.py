"""What differs between two revisions: files, card, settings, measurements, tensors. Of one repo, or of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.checks.source import RepoSource
from hubkit.core.trees import Change, TreeDiff, compare
from hubkit.publishing.revisions.documents import (
    MOST_BYTES,
    SETTINGS,
    KeyChange,
    changed_keys,
    scores,
    settings,
    split_card,
    text_changes,
)
from hubkit.publishing.revisions.listing import facts_of
from hubkit.publishing.revisions.weights import LIMIT, WeightChanges, compare_weights

CARD = "README.md"


@dataclass(frozen=True)
class Comparison:
    """What turns ``before`` into ``after``.

    ``card`` is a unified diff of the text below the front matter, ``metadata`` its keys, ``settings`` the changed keys
    of each JSON file. ``measured`` holds (before, after) by name: stop rates and the average as shares, and the numbers
    on the cards. ``weights`` is None when tensors were not compared. ``notes`` list what was left out.
    """

    before: RepoSource
    after: RepoSource
    files: TreeDiff
    same_files: int
    card: tuple[str, ...]
    metadata: tuple[KeyChange, ...]
    settings: Mapping[str, tuple[KeyChange, ...]]
    measured: Mapping[str, tuple[float | None, float | None]]
    weights: WeightChanges | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values; sizes in bytes."""
        sides = {
            name: {"repo": source.repo, "revision": source.revision, "commit": source.commit}
            for name, source in (("before", self.before), ("after", self.after))
        }
        return {
            **sides,
            "equal": not self.files,
            "files": [change.to_json() for change in self.files.changes],
            "same_files": self.same_files,
            "card": list(self.card),
            "metadata": [change.to_json() for change in self.metadata],
            "settings": {path: [change.to_json() for change in found] for path, found in self.settings.items()},
            "measured": [{"name": name, "before": old, "after": new} for name, (old, new) in self.measured.items()],
            "weights": self.weights.to_json() if self.weights else None,
            "notes": list(self.notes),
        }


def compare_revisions(
    before: RepoSource, after: RepoSource, *, tensors: bool = True, limit: int | None = LIMIT
) -> Comparison:
    """All that differs; at most ``limit`` bytes of tensors are read (None: all of those in files that differ)."""
    notes: list[str] = []
    files = TreeDiff(
        tuple(
            change
            for change in compare(before.files(), after.files()).changes
            if not _same_bytes(change, before, after)
        )
    )
    card, metadata, fronts = _cards(before, after, notes)
    changed = {change.path for change in files.changed}
    weights = compare_weights(before, after, limit) if tensors else None
    if weights is not None:
        notes += weights.notes
    return Comparison(
        before,
        after,
        files,
        len(before.files().keys() & after.files().keys()) - len(files.changed),
        card if CARD in changed else (),
        metadata,
        _settings(before, after, changed, notes),
        _measured(before, after, fronts),
        weights,
        tuple(notes),
    )


def _same_bytes(change: Change, before: RepoSource, after: RepoSource) -> bool:
    """Whether a file that one side keeps in LFS and the other does not, so that no digest is common, is the same."""
    old, new = change.before, change.after
    if old is None or new is None or old.size != new.size or bool(old.sha256) == bool(new.sha256):
        return False
    return old.size <= MOST_BYTES and before.read(change.path) == after.read(change.path)


def _cards(
    before: RepoSource, after: RepoSource, notes: list[str]
) -> tuple[tuple[str, ...], tuple[KeyChange, ...], tuple[dict[str, Any], dict[str, Any]]]:
    """The diff of the cards' text, their keys that differ, and both front matters."""
    texts, fronts = [], []
    for source in (before, after):
        large = CARD in source.files() and source.files()[CARD].size > MOST_BYTES
        raw = source.read(CARD) if CARD in source.files() and not large else b""
        front, body = split_card(raw.decode("utf-8", "replace"))
        if large:
            notes.append(f"{CARD} of {source.revision} is too large to compare.")
        if front is None:
            notes.append(f"The front matter of {CARD} of {source.revision} cannot be read.")
        texts.append(body)
        fronts.append(front or {})
    text = text_changes(texts[0], texts[1], (before.revision, after.revision))
    if text is None:
        notes.append(f"{CARD} is too long to compare line by line.")
    front_changes = changed_keys(*({k: v for k, v in front.items() if k != "model-index"} for front in fronts))
    return text or (), front_changes, (fronts[0], fronts[1])


def _settings(
    before: RepoSource, after: RepoSource, changed: set[str], notes: list[str]
) -> dict[str, tuple[KeyChange, ...]]:
    found = {}
    for path in sorted(changed):
        if path.rpartition("/")[2] not in SETTINGS:
            continue
        large = max(before.files()[path].size, after.files()[path].size) > MOST_BYTES
        old, new = (None, None) if large else (settings(before.read(path)), settings(after.read(path)))
        if old is None or new is None:
            notes.append(
                f"The keys of {path} were not compared: it is {'too large' if large else 'not a JSON object'}."
            )
        elif keys := changed_keys(old, new):
            found[path] = keys
        else:
            notes.append(f"{path} has the same keys and values, written differently.")
    return found


def _measured(
    before: RepoSource, after: RepoSource, fronts: tuple[dict[str, Any], dict[str, Any]]
) -> dict[str, tuple[float | None, float | None]]:
    """Every measured number of either side: from the manifests, then from the cards."""
    sides: list[dict[str, float]] = []
    for source, front in zip((before, after), fronts, strict=True):
        facts = facts_of(source.hub, source.repo, source.commit, source.files(), source.repo_type)
        measured = {f"stop rate, {form}": rate for form, rate in (facts["stop_rates"] or {}).items()}
        if facts["average"] is not None:
            measured["benchmark average"] = facts["average"]
        sides.append(measured | scores(front))
    return {name: (sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys([*sides[0], *sides[1]])}
