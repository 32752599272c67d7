"""Which repos a list shows, and in which order: search, filters, sort."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import UsageError

_SORTS = {
    "lastModified": "lastModified", "last_modified": "lastModified", "createdAt": "createdAt",
    "created_at": "createdAt", "downloads": "downloads", "likes": "likes", "likes7d": "likes",
    "trendingScore": "likes", "trending_score": "likes", "trending": "likes", "updated": "lastModified",
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)([KMBT]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

EXPAND = {
    "model": """author baseModels cardData childrenModelCount config createdAt disabled downloads downloadsAllTime
evalResults gated gguf inference inferenceProviderMapping lastModified library_name likes mask_token model-index
pipeline_tag private resourceGroup safetensors sha siblings spaces tags transformersInfo trendingScore usedStorage
widgetData xetEnabled gitalyUid""",
    "dataset": """author cardData citation createdAt description disabled downloads downloadsAllTime gated lastModified
likes mainSize paperswithcode_id private resourceGroup sha siblings tags trendingScore usedStorage xetEnabled
gitalyUid""",
    "kernel": """author cardData createdAt disabled downloads gated lastModified likes private sha siblings tags
trendingScore usedStorage""",
    "space": """author cardData createdAt datasets disabled lastModified likes models private region resourceGroup
runtime sdk sha siblings subdomain tags trendingScore usedStorage xetEnabled gitalyUid""",
}


@dataclass(frozen=True)
class Query:
    """What a client asks a list for. Names and words match in any case of letters; all of them must match."""

    words: tuple[str, ...]
    author: str
    tags: frozenset[str]
    gated: bool | None
    pipeline_tag: str
    parameters: tuple[float, float] | None
    used: tuple[tuple[str, str], ...]
    """Models and datasets that a Space must name, as (key of its card, repo)."""
    deployed: bool = False
    """Only models that an inference provider runs: this Hub has none."""

    @classmethod
    def of(cls, get: Callable[[str], list[str]]) -> Query:
        """The query of a request; ``get`` returns the values of a parameter."""
        first = {name: (get(name) or [""])[0] for name in ("author", "gated", "pipeline_tag", "num_parameters")}
        gated = {"": None, "true": True, "false": False}.get(first["gated"].lower())
        if first["gated"] and gated is None:
            raise UsageError("'gated' must be true or false.")
        used = tuple((name, value.lower()) for name in ("models", "datasets") for value in get(name))
        parameters = _range(first["num_parameters"]) if first["num_parameters"] else None
        words = tuple(word.lower() for text in get("search") for word in text.split())
        tags = frozenset(tag for value in get("filter") for tag in value.split(",") if tag)
        deployed = bool(get("inference") or get("inference_provider"))
        return cls(words, first["author"].lower(), tags, gated, first["pipeline_tag"], parameters, used, deployed)

    def names(self, namespace: str, repo_id: str) -> bool:
        """Whether a repo of this name can be in the list; all that is known without its files."""
        return (not self.author or namespace.lower() == self.author) and all(
            word in repo_id.lower() for word in self.words
        )

    @property
    def by_name_alone(self) -> bool:
        """Whether :meth:`names` decides: nothing is asked of a repo's files."""
        asked = (self.tags, self.pipeline_tag, self.parameters, self.used, self.deployed)
        return self.gated is None and not any(asked)

    def fits(self, info: dict[str, Any], count: Callable[[], int]) -> bool:
        """Whether a repo with this info is in the list; ``count`` returns its number of parameters."""
        card = info["cardData"] or {}
        return (
            not self.deployed
            and self.tags <= {*info["tags"], info.get("pipeline_tag"), info.get("library_name")}
            and (self.gated is None or bool(info["gated"]) == self.gated)
            and (not self.pipeline_tag or info.get("pipeline_tag") == self.pipeline_tag)
            and all(repo in _lowered(card.get(key)) for key, repo in self.used)
            and (self.parameters is None or self.parameters[0] <= count() <= self.parameters[1])
        )


def ordered(infos: list[Any], sort: str | None, *, ascending: bool, info_of: Callable[[Any], dict[str, Any]]) -> None:
    """Sort a list of repos in place: by default the newest first. UsageError for a key that there is not."""
    if sort is not None and sort not in _SORTS:
        raise UsageError(f"{sort[:100]!r} is no order of a list: {', '.join(sorted({*_SORTS.values()}))}.")
    key = _SORTS.get(sort or "createdAt", "createdAt")
    infos.sort(key=lambda item: ((info := info_of(item))[key], info["createdAt"], info["id"]), reverse=not ascending)


def by_creation(sort: str | None) -> bool:
    """Whether a list in this order, by default the newest first, needs to know of a repo only when it was made."""
    return _SORTS.get(sort or "createdAt") == "createdAt"


def expand_problem(kind: str, fields: Iterable[str]) -> str | None:
    """Why these fields cannot be expanded, or None when they can."""
    known = EXPAND[kind].split()
    for at, name in enumerate(fields):
        if name not in known:
            options = "|".join(f'"{option}"' for option in known)
            return f"Invalid option: expected one of {options} at expand[{at}]"
    return None


def _lowered(value: Any) -> set[str]:
    return {item.lower() for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)}


def _range(text: str) -> tuple[float, float]:
    """``min:6B,max:128B`` as two numbers."""
    bounds = {"min": 0.0, "max": float("inf")}
    for part in text.split(","):
        name, _, size = part.strip().partition(":")
        match = _SIZE.fullmatch(size)
        if name not in bounds or match is None:
            raise UsageError("'num_parameters' must be of the form min:6B,max:128B.")
        bounds[name] = float(match[1]) * _UNITS[match[2].lower()]
    return bounds["min"], bounds["max"]
