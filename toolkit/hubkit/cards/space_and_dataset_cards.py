"""Cards of the Space and of the held-out prompts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hubkit import __version__
from hubkit.cards.escape import clean, one_line
from hubkit.cards.metadata import dump_block
from hubkit.cards.pictures import HEADER
from hubkit.cards.render import DATASET_CARD, SPACE_CARD, Rendered, render_body
from hubkit.core.errors import RefusedError
from hubkit.core.licenses import license_identifiers
from hubkit.core.space_metadata import DESCRIPTION_MOST
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN

if TYPE_CHECKING:
    from hubkit.cards.evidence import Evidence
    from hubkit.publishing.spaces.building import Facts


@dataclass(frozen=True)
class SpacePage:
    """What the Hub shows of a Space beside its app. ``description`` and ``hardware`` are the recipe's.

    ``picture``: the model's card has a header, and everybody may read it.
    """

    datasets: Sequence[str] = ()
    hardware: str | None = None
    description: str | None = None
    picture: bool = False


def space_card(facts: Facts, page: SpacePage | None = None) -> str:
    """The card of a release's Space: the front matter by which the Hub runs it, and what it is."""
    from huggingface_hub import SpaceCardData

    page = page or SpacePage()
    data = SpaceCardData(
        title=one_line(facts.title),
        emoji="💬",
        colorFrom="indigo",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        suggested_hardware=page.hardware or "cpu-basic",
        license=facts.licence,
        models=list(dict.fromkeys([*facts.repos, facts.base[0]])),
        datasets=list(dict.fromkeys(page.datasets)) or None,
        tags=["hubkit", "chat"],
        short_description=short_description(page.description or f"Compare the answers of {one_line(facts.title)}"),
        thumbnail=f"https://huggingface.co/{quote(facts.repo)}/resolve/main/{HEADER}" if page.picture else None,
    )
    several = len(facts.repos) > 1
    revisions = [
        {
            "name": item.name,
            "title": clean(item.title),
            "commit": item.commit,
            "repo": item.repo or facts.repo,
            "branch": MAIN if several else item.name,
        }
        for item in facts.revisions
    ]
    context = {
        "title": clean(facts.title),
        "repo": facts.repo,
        "base": facts.base[0],
        "revisions": revisions,
        "separate_repos": several,
    }
    return _card(data.to_dict(), context, SPACE_CARD).text  # type: ignore[no-untyped-call]


def short_description(text: str) -> str:
    """``text`` on one line of at most 60 characters, which is what the Hub takes; longer text ends after a word."""
    line = one_line(text)
    if len(line) <= DESCRIPTION_MOST:
        return line
    head = line[: DESCRIPTION_MOST - 1]
    words = head.rpartition(" ")[0] if line[DESCRIPTION_MOST - 1] != " " else head
    return f"{(words if len(words) > DESCRIPTION_MOST // 2 else head).rstrip(' ,;:.-')}…"


def dataset_card(recipe: Recipe, evidence: Evidence) -> Rendered:
    """The card of the prompts that the release of ``recipe`` held out (``prompts.jsonl`` of its data step).

    RefusedError when the data step has not run.
    """
    from huggingface_hub import DatasetCardData

    data = evidence.wrapped().get("data", {}).get("data.json") or {}
    if not data.get("prompts"):
        raise RefusedError("The release has not held out prompts yet.", hint="Run the release first.")
    if not data["prompts"]["set"]:
        raise RefusedError("The recipe holds out no prompts: it measures no stop rate.")
    sources = ((data.get("sets") or {}).get(data["prompts"]["set"]) or {}).get("sources") or []
    known = license_identifiers()
    licenses = list(dict.fromkeys(source["licence"] for source in sources if source.get("licence") in known))
    context = {
        "title": clean(recipe.card.title),
        "repo": recipe.repo,
        "prompts": data["prompts"],
        "sources": [{**source, "dropped": list((source.get("dropped") or {}).items())} for source in sources],
        "hubkit": __version__,
    }
    metadata = DatasetCardData(
        pretty_name=f"Held-out prompts of {one_line(recipe.card.title)}",
        language=list(recipe.card.language),
        license=licenses or None,
        source_datasets=list(dict.fromkeys(source["repo"] for source in sources if not source.get("local"))),
        task_categories=["text-generation"],
        tags=["hubkit"],
        configs=[{"config_name": "default", "data_files": "prompts.jsonl"}],
    )
    return _card(metadata.to_dict(), context, DATASET_CARD)  # type: ignore[no-untyped-call]


def _card(metadata: Mapping[str, Any], context: Mapping[str, Any], which: str) -> Rendered:
    head = f"---\n{dump_block(metadata)}\n---\n\n"
    text, numbers = render_body(context, which, len(head))
    return Rendered(head + text, metadata, tuple(numbers))
