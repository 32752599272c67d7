"""What a release measured of the model, as its own manifest says: how many answers ended.

The manifest counts only for the weights that it lists: somebody may have trained them further and kept the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.checks.rules import STOP_RATE
from hubkit.checks.source import Source
from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import HubkitError
from hubkit.core.findings import Finding
from hubkit.core.numbers import share

MANIFEST = ".hubkit/manifest.json"
_MOST_BYTES = 8 * 1024 * 1024
_LEAST = 0.9
"""The stop rate below which a release is reported whose manifest has no threshold of its own."""
_FORMS = {"merged": "merged weights", "adapter": "adapter", "four-bit": "adapter on a 4-bit base"}


@dataclass(frozen=True)
class Measurement:
    """Of ``prompts`` answers of a form ``stopped`` ended; None in releases of which only the ``rate`` is known."""

    form: str
    rate: float
    stopped: int | None = None
    prompts: int | None = None

    @property
    def words(self) -> str:
        """``0 of 128`` or ``0 % of the``."""
        return f"{share(self.rate)} of the" if self.prompts is None else f"{self.stopped} of {self.prompts}"


@dataclass(frozen=True)
class Measurements:
    """The stop rate of each form of a release. ``at_least`` is the threshold of its gate."""

    forms: tuple[Measurement, ...]
    max_new_tokens: int | None
    at_least: float

    def to_json(self) -> dict[str, Any]:
        """``{form: {rate, stopped, prompts}}``, the last two where they are known."""
        return {
            item.form: {"rate": item.rate}
            | ({} if item.prompts is None else {"stopped": item.stopped, "prompts": item.prompts})
            for item in self.forms
        }


def inspect(source: Source) -> Measurements | None:
    """What the manifest of hubkit in ``source`` says of these weights; None when it says nothing of them."""
    entry = source.files().get(MANIFEST)
    if entry is None or entry.size > _MOST_BYTES:
        return None
    try:
        content = load_json(source.read(MANIFEST))
    except JsonError:
        return None
    if not isinstance(content, dict) or "variant" not in content:
        return None
    found = _measurements(content)
    return found if found and _are_here(source, content.get("files")) else None


def find(measured: Measurements) -> Iterator[Finding]:
    """The finding about forms that do not stop as often as they should."""
    low = [item for item in measured.forms if item.rate < measured.at_least]
    if not low:
        return
    within = f" within {measured.max_new_tokens} new tokens" if measured.max_new_tokens else ""
    forms = {words: [_FORMS.get(item.form, item.form) for item in low if item.words == words] for words in
             dict.fromkeys(item.words for item in low)}  # fmt: skip
    each = "; ".join(f"{words} answers stopped{within} ({', '.join(named)})" for words, named in forms.items())
    yield STOP_RATE.finding(
        f"The release measured that answers run on: {each}. Wanted: at least {share(measured.at_least)}.",
        "Set a token limit, or use a branch whose answers stop (`hubkit revisions list`).",
        file=MANIFEST,
    )


def _measurements(content: Mapping[str, Any]) -> Measurements | None:
    """The counts in ``content``; of a release before there were counts, the rates."""
    answers = _dict(content.get("answers"))
    forms = [
        Measurement(form, stopped / prompts, stopped, prompts)
        for form, item in _dict(answers.get("forms")).items()
        for stopped, prompts in [(_dict(item).get("stopped"), _dict(item).get("prompts"))]
        if type(stopped) is int and type(prompts) is int and 0 <= stopped <= prompts and prompts
    ] or [
        Measurement(form, float(rate))
        for form, rate in _dict(content.get("stop_rates")).items()
        if isinstance(rate, int | float) and 0 <= rate <= 1
    ]
    gate = _dict(_dict(_dict(content.get("recipe")).get("gates")).get("stop_rate"))
    limit = answers.get("max_new_tokens", gate.get("max_new_tokens"))
    least = answers.get("at_least", gate.get("at_least"))
    if not forms:
        return None
    order = [*_FORMS, *(item.form for item in forms)]
    forms.sort(key=lambda item: order.index(item.form))
    threshold = float(least) if isinstance(least, int | float) and 0 <= least <= 1 else _LEAST
    return Measurements(tuple(forms), limit if type(limit) is int else None, threshold)


def _are_here(source: Source, listed: Any) -> bool:
    """Whether the weights in ``source`` are those that the manifest lists, by their digests."""
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    promised = {item["path"]: item for item in items if isinstance(item.get("path"), str)}
    files = source.files()
    weights = {path for path in {*promised, *files} if path.endswith(".safetensors")}
    if not weights or weights - promised.keys() or weights - files.keys():
        return False
    return all(_is_same(source, path, promised[path]) for path in sorted(weights))


def _is_same(source: Source, path: str, promised: Mapping[str, Any]) -> bool:
    entry = source.files()[path]
    if entry.size != promised.get("size"):
        return False
    if entry.sha256 or entry.git:
        return (entry.sha256 or entry.git) == promised.get("sha256" if entry.sha256 else "git")
    try:
        return source.retried(lambda: _sha256(source, path)) == promised.get("sha256")
    except (OSError, HubkitError):
        return False


def _sha256(source: Source, path: str) -> str:
    digest = hashlib.sha256()
    for block in source.blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
