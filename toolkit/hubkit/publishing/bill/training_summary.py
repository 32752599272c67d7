"""A summary of the training content, after the European Commission's template of July 2025 (AI Act, article 53(1)(d)).

Its three parts: general information, list of data sources, data processing. For who modifies a model the summary is
about the data of the modification; that of the original is its provider's. What the manifest does not say stays empty:
its provider fills it in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hubkit.core.numbers import count, share, short_commit
from hubkit.publishing.bill.compute import THIRD, operations, share_of_original, tokens
from hubkit.publishing.bill.facts import Dataset, Facts

EMPTY = ""
"""What a field holds that nobody knows."""
_KINDS = (
    "Publicly available datasets",
    "Private datasets obtained from third parties",
    "Data crawled and scraped from online sources",
    "User data",
    "Synthetic data",
    "Other sources of data",
)
"""Section 2 of the template. Whether a repo is public, or its rows are synthetic, no manifest says."""
TEMPLATE = "https://digital-strategy.ec.europa.eu/en/library/explanatory-notice-and-template-public-summary-training-content-general-purpose-ai-models"


def summary_of(facts: Facts, commit: str | None = None, original_tokens: int | None = None) -> str:
    """The summary as Markdown. ``original_tokens``: how many the base was trained on, as its provider says."""
    return "\n".join([*_general(facts, commit, original_tokens), *_sources(facts), *_processing()]) + "\n"


def _general(facts: Facts, commit: str | None, original_tokens: int | None) -> Iterator[str]:
    base = facts.base
    name = facts.repo or EMPTY
    yield f"# Summary of the training content{f' of {name}' if name else ''}"
    yield ""
    yield f"After the [European Commission's template]({TEMPLATE}) of July 2025. Empty fields are unknown to hubkit."
    yield ""
    yield "## 1. General information"
    yield ""
    yield from _table(
        ("Provider", EMPTY),
        ("Authorized representative", EMPTY),
        ("Model", name),
        ("Version", " ".join(part for part in (facts.variant, f"({short_commit(commit)})" if commit else "") if part)),
        ("Modification of", f"{base.repo} at {base.commit}" if base and base.commit else base.repo if base else EMPTY),
        ("Date of placing on the market", EMPTY),
        ("License", facts.license or EMPTY),
    )
    trained, flop = tokens(facts), operations(facts)
    part = share_of_original(facts, original_tokens)
    yield from _table(
        ("Modality", "text" if facts.datasets else EMPTY),
        ("Tokens trained on (repeats counted)", count(trained) if trained is not None else EMPTY),
        ("Rows used", _rows(facts)),
        ("Languages", EMPTY),
        ("Date of the latest data", EMPTY),
        ("Operations of this training (6 · N · D)", f"{flop:.3g}" if flop is not None else EMPTY),
        ("Share of the original's training compute", _part(part)),
    )


def _rows(facts: Facts) -> str:
    known = [item.rows for item in facts.datasets]
    return count(sum(item for item in known if item)) if known and None not in known else EMPTY


def _part(part: float | None) -> str:
    if part is None:
        return EMPTY
    above = "more than a third" if part > THIRD else "less than a third"
    return f"{share(part) if part >= 0.001 else f'{part:.2g}'} ({above})"


def _sources(facts: Facts) -> Iterator[str]:
    yield "## 2. List of data sources"
    yield ""
    if facts.datasets:
        yield "The sources that the release names; the provider assigns each to its section below."
        yield ""
        yield from _datasets(facts.datasets)
    for number, kind in enumerate(_KINDS, 1):
        yield f"### 2.{number} {kind}"
        yield ""


def _datasets(listed: Sequence[Dataset]) -> Iterator[str]:
    yield "| dataset | commit or sha256 | subset and split | rows used | license |"
    yield "|---|---|---|---|---|"
    for item in listed:
        rows = count(item.rows) if item.rows is not None else EMPTY
        part = ", ".join(name for name in (item.config, item.split) if name)
        cells = (item.repo, item.commit or EMPTY, part, rows, item.license or EMPTY)
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""


def _processing() -> Iterator[str]:
    yield "## 3. Data processing"
    yield ""
    yield from _table(
        ("Respect of reservations of rights (text and data mining)", EMPTY),
        ("Removal of illegal content", EMPTY),
        ("Other information", EMPTY),
    )


def _table(*rows: tuple[str, str]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {_cell(value)} |" for name, value in rows)
    yield ""


def _cell(value: str) -> str:
    """``value`` so that it ends no cell and is no markup: it may come from anybody."""
    kept = "".join(letter if letter.isprintable() else " " for letter in value)
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>#" else letter for letter in kept)
