"""The front matter of a card, for the head and the side of a page: chips, relations, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hubkit.core import numbers
from hubkit.server.repos.store import RepoType

_TEXT, _CHIPS, _RESULTS, _PROMPT = 120, 60, 100, 5000
_RELATIONS = {
    "adapter": "Adapter of",
    "finetune": "Fine-tuned from",
    "merge": "Merge of",
    "quantized": "Quantized from",
}
_DERIVED = {"adapter": "Adapters", "finetune": "Fine-tunes", "merge": "Merges", "quantized": "Quantizations"}


def listed(card: dict[str, Any], key: str) -> list[str]:
    """The strings of a key, whether the card gives one or a list."""
    value = card.get(key)
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item][:_CHIPS]


def chips(info: dict[str, Any]) -> list[dict[str, str]]:
    """``{kind, text, tag}`` of a repo's info: ``tag`` is what the lists of repos can be filtered by."""
    card = info["cardData"] or {}
    kinds = {"pipeline_tag": "task", "library_name": "library", "sdk": "library", "language": "language"}
    items = [
        {"kind": kind, "text": text, "tag": text if key != "language" or text in info["tags"] else f"language:{text}"}
        for key, kind in kinds.items()
        for text in listed({**card, "library_name": info.get("library_name"), "sdk": info.get("sdk")}, key)
    ]
    items += [{"kind": "license", "text": text, "tag": f"license:{text}"} for text in listed(card, "license")]
    listed_tags = {chip["tag"] for chip in items}
    items += [{"kind": "paper", "text": tag, "tag": tag} for tag in info["tags"] if tag.startswith("arxiv:")]
    listed_tags |= {chip["tag"] for chip in items}
    own = [tag for tag in info["tags"] if ":" not in tag or tag in listed(card, "tags")]
    items += [{"kind": "tag", "text": tag, "tag": tag} for tag in own if tag not in listed_tags]
    return [{**chip, "text": shortened(chip["text"])} for chip in items[:_CHIPS]]


def shortened(text: str) -> str:
    """``text``, or its beginning when it is long."""
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def relation(info: dict[str, Any]) -> str:
    """How a model was made from its ``base_model``: as the card says, or as the Hub guesses."""
    card = info["cardData"] or {}
    given = card.get("base_model_relation")
    if isinstance(given, str) and given in _RELATIONS:
        return given
    if len(listed(card, "base_model")) > 1:
        return "merge"
    return "adapter" if info.get("library_name") == "peft" else "finetune"


def sources(info: dict[str, Any], address: Callable[[RepoType, str], str | None]) -> list[dict[str, Any]]:
    """The repos that a card names: its base model, datasets, models: ``{title, links: [{text, href}]}``.

    ``address(type, id)`` is the address of a repo of this Hub that the reader may see, or None.
    """
    card = info["cardData"] or {}
    keys: dict[str, tuple[str, RepoType]] = {
        "base_model": (_RELATIONS[relation(info)], "model"),
        "datasets": ("Datasets", "dataset"),
        "models": ("Models used", "model"),
    }
    return [
        {"title": title, "links": [{"text": shortened(name), "href": address(kind, name)} for name in names]}
        for key, (title, kind) in keys.items()
        if (names := listed(card, key))
    ]


def derived(name: str, infos: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The models among ``infos`` (address, info) that name ``name`` as their base, by relation."""
    groups: dict[str, list[dict[str, str]]] = {}
    for href, info in infos:
        bases = {base.lower() for base in listed(info["cardData"] or {}, "base_model")}
        if name.lower() in bases and info["id"] != name:
            groups.setdefault(relation(info), []).append({"text": info["id"], "href": href})
    return [{"title": _DERIVED[kind], "links": links} for kind, links in sorted(groups.items())]


def newer(card: dict[str, Any], address: Callable[[RepoType, str], str | None]) -> dict[str, str | None] | None:
    """The model that replaces this one, as its card says: ``{text, href}``; None when it says none."""
    given = card.get("new_version")
    if not isinstance(given, str) or not given:
        return None
    return {"text": shortened(given), "href": address("model", given)}


def gate(card: dict[str, Any]) -> dict[str, Any]:
    """What people who ask for access to a gated repo are told and asked: ``{heading, prompt, button, fields}``.

    ``fields`` are (label, kind) as the card gives them.
    """

    def text(key: str) -> str:
        given = card.get(f"extra_gated_{key}")
        return given if isinstance(given, str) else ""

    fields = card.get("extra_gated_fields")
    rows = [
        (shortened(str(label)), str(kind.get("type", "")) if isinstance(kind, dict) else str(kind))
        for label, kind in (list(fields.items())[:_CHIPS] if isinstance(fields, dict) else ())
    ]
    return {
        "heading": shortened(text("heading")) or "Access to this model must be requested",
        "prompt": text("prompt")[:_PROMPT],
        "description": text("description")[:_PROMPT],
        "button": shortened(text("button_content")),
        "fields": rows,
    }


def results(card: dict[str, Any]) -> list[dict[str, str]]:
    """The ``model-index`` as rows ``{task, dataset, metric, value}``; what is not shaped like one is left out."""
    rows = []
    for model in _dicts(card.get("model-index")):
        for result in _dicts(model.get("results")):
            task, dataset = _name(result.get("task")), _name(result.get("dataset"))
            for metric in _dicts(result.get("metrics")):
                row = {
                    "task": task,
                    "dataset": dataset,
                    "metric": _name(metric),
                    "value": _metric_value(metric.get("value")),
                }
                rows.append({key: shortened(text) for key, text in row.items()})
    return rows[:_RESULTS]


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield item


def _name(value: Any) -> str:
    name = value.get("name") or value.get("type") if isinstance(value, dict) else None
    return str(name) if isinstance(name, str | int | float) else "–"


def _metric_value(value: Any) -> str:
    """Four decimals for a value up to 1; two beyond, where cards give percent."""
    if isinstance(value, float):
        return numbers.score(value) if abs(value) <= 1 else numbers.decimals(value, 2)
    return str(value) if isinstance(value, str | int) else "–"
