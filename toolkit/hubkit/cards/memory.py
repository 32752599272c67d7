"""What a reader needs to run a model, beside code: its memory, computed from its tensors, and how to sample from it.

Both are files of the card's own step, so that their numbers can be traced: :func:`keep_running` writes them,
:func:`running` gives them to the templates as ``memory`` and ``sampling``:

    {% if memory %}{{ memory.weights | measured("size") }} in {{ memory.dtype | md }},
    {{ memory.nf4 | measured("size") }} in 4 bits (NF4), and {{ memory.cache | measured("size") }} more for a full
    context of {{ memory.context | measured("count") }} tokens.{% endif %}
    {% for name, value in sampling.settings %}{{ name | code }} {{ value | measured("short") }}{% endfor %}
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hubkit.cards.evidence import Evidence, card_step
from hubkit.cards.measured import wrap
from hubkit.core.errors import RefusedError
from hubkit.core.files import read_json
from hubkit.models.footprint import footprint
from hubkit.models.merging.merged import MergedWeights

MEMORY_FILE, SAMPLING_FILE = "memory.json", "sampling.json"
_GREEDY_TOO = ("repetition_penalty", "no_repeat_ngram_size")
_SAMPLED = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_NEUTRAL: Mapping[str, float] = {
    "repetition_penalty": 1, "no_repeat_ngram_size": 0, "temperature": 1, "top_p": 1, "typical_p": 1,
    "epsilon_cutoff": 0, "eta_cutoff": 0, "top_k": 0, "min_p": 0,
}  # fmt: skip
"""Settings that change nothing."""


def keep_running(merged: MergedWeights, variant: str, evidence: Evidence, earlier: Path | None = None) -> None:
    """Make the memory and the sampling settings of ``merged`` files of the card's step.

    Nothing is kept where the weights are no longer there. ``earlier`` is the folder of a card of the same weights:
    its files are taken, for torch and transformers take seconds to be imported.
    """
    kept = evidence.derived.setdefault(card_step(variant), {})
    if earlier is not None and (earlier / SAMPLING_FILE).is_file():
        kept |= {name: read_json(earlier / name) for name in (MEMORY_FILE, SAMPLING_FILE) if (earlier / name).is_file()}
        return
    if not merged.model.is_dir():
        return
    with suppress(RefusedError, FileNotFoundError):  # the weights were removed to save room; the card has the rest
        kept[MEMORY_FILE] = footprint(merged.model).to_json()
    path = merged.model / "generation_config.json"
    kept[SAMPLING_FILE] = sampling_settings(dict(read_json(path)) if path.is_file() else {})


def sampling_settings(generation: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generation`` (generation_config.json) makes ``generate`` do unless it is told otherwise.

    ``samples`` tells whether it samples, else it is greedy. ``settings`` are those that then have an effect, without
    the neutral ones. A value that is no number is left out.
    """
    samples = generation.get("do_sample") is True
    names = (*_SAMPLED, *_GREEDY_TOO) if samples else _GREEDY_TOO
    settings = {
        name: value
        for name in names
        if isinstance(value := generation.get(name), int | float)
        and not isinstance(value, bool)
        and value != _NEUTRAL[name]
    }
    return {"samples": samples, "settings": settings}


def placeholders(variant: str) -> dict[str, dict[str, Any]]:
    """Files of the shape of :func:`keep_running`'s for a card whose numbers are placeholders, by step."""
    memory = {"dtype": "bfloat16", "weights": 1, "nf4": 1, "context": 1, "cache": 1}
    return {card_step(variant): {MEMORY_FILE: memory, SAMPLING_FILE: {"samples": False, "settings": {}}}}


def running(variant: str, evidence: Evidence) -> dict[str, Any]:
    """The template variables ``memory`` and ``sampling``; None: unknown.

    ``memory``: ``dtype``, ``weights`` and ``nf4`` (bytes once loaded), ``context`` (tokens), ``cache`` (bytes of keys
    and values for a full context); each but the first two may be None. ``sampling``: ``samples``, and ``settings`` as
    (name, number) pairs, for ``measured("short")``.
    """
    step = card_step(variant)
    memory, sampling = (
        wrap(found, step, name) if (found := evidence.get(step, name)) is not None else None
        for name in (MEMORY_FILE, SAMPLING_FILE)
    )
    if sampling is not None:
        sampling = {**sampling, "settings": list(sampling["settings"].items())}
    return {"memory": memory, "sampling": sampling}
