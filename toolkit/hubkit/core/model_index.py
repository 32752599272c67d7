"""What ``model-index`` in the front matter of a card must have: what hub-docs calls required.

The Hub holds cards without a dataset, or without a value; huggingface_hub, which reads ``model-index``, fails on them.

A metric's value may be a number or a string: cards of reinforcement learning give "250.1 +/- 18.4", and the Hub takes
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_REQUIRED = (("task", ("type",)), ("dataset", ("type", "name")))


def index_problems(index: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with a ``model-index``: a sentence, and how the Hub words it; empty where it takes it."""
    if index is None:
        return
    if not isinstance(index, list):
        # The Hub holds cards with a mapping here, and refuses a word: a test of huggingface_hub's own shows it.
        yield "'model-index' is not a list.", "" if isinstance(index, Mapping) else '"model-index" must be an array'
        return
    for at, model in enumerate(index):
        where = f"model-index[{at}]"
        if not isinstance(model, Mapping) or "name" not in model:
            yield f"'{where}' has no name.", ""
        elif not isinstance(model.get("results"), list):
            yield f"'{where}.results' is not a list.", ""
        else:
            for number, result in enumerate(model["results"]):
                yield from _result(result, f"{where}.results[{number}]")


def _result(result: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(result, Mapping):
        yield f"'{where}' is not a mapping.", f'"{where}" must be of type object'
        return
    for part, names in _REQUIRED:
        held = result.get(part)
        if not isinstance(held, Mapping):
            yield f"'{where}' has no {part}.", ""
            continue
        for name in names:
            if name not in held:
                yield f"'{where}.{part}' has no {name}.", ""
    dataset = result.get("dataset")
    config = dataset.get("config") if isinstance(dataset, Mapping) else None
    if config is not None and not isinstance(config, str):
        yield (
            f"'{where}.dataset.config' is {config!r}, which must be a string.",
            f'"{where}.dataset.config" must be a string',
        )
    if not isinstance(result.get("metrics"), list):
        yield f"'{where}' has no list of metrics.", ""
        return
    for at, metric in enumerate(result["metrics"]):
        for name in ("type", "value"):
            if not isinstance(metric, Mapping) or name not in metric:
                yield f"'{where}.metrics[{at}]' has no {name}.", ""
    source = result.get("source")
    if isinstance(source, Mapping) and source.get("name") and not source.get("url"):
        yield f"'{where}.source' has a name and no url.", ""
