"""Where a bundle comes from, as its manifest says it: recipe, base, data, trainings, versions, measurements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hubkit import __version__
from hubkit.core.files import digest_of
from hubkit.core.libraries import installed
from hubkit.models.base import PinnedBase
from hubkit.models.chat.gate_verdicts import GateVerdict
from hubkit.models.chat.stop_rates import StopRates
from hubkit.models.merging.merged import MergedWeights
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData


def origin_of(
    *,
    repo: str,
    variant: str,
    branch: str,
    license_: str | None,
    license_name: str | None = None,
    license_link: str | None = None,
    base: PinnedBase,
    data: PreparedData,
    adapter: TrainedAdapter,
    adapters: Mapping[str, TrainedAdapter],
    merged: MergedWeights,
    recipe: Mapping[str, Any],
    libraries: Iterable[str] = (),
) -> dict[str, Any]:
    """Where the bundle comes from. It holds no time of day: the same artifacts give the same manifest.

    ``license_`` is the one on the card, ``recipe`` as :func:`hubkit.publishing.recipe_record.recipe_record` has it.
    ``libraries`` shaped other files of the bundle; those that trained are known. What is not known is left out.
    """
    return {
        "made_by": {
            "hubkit": __version__,
            **known(**{name: installed(name) for name in libraries}),
            **adapter.libraries,
        },
        "repo": repo,
        "variant": variant,
        **({"branch": branch} if branch != variant else {}),
        **known(license=license_, license_name=license_name, license_link=license_link),
        "base": base_facts(base),
        "data": data_facts(data),
        "stage": adapter.stage,
        **({"merge": dict(merged.computed_with)} if merged.computed_with else {}),
        **({"trainings": trainings} if (trainings := list(_trainings(recipe, adapters))) else {}),
        **({"adopted": dict(adapter.origin)} if adapter.origin else {}),
        **({"tracking": reports} if (reports := [dict(item) for item in adapter.trackers if "url" in item]) else {}),
        "recipe": recipe,
        "recipe_digest": digest_of(recipe),
    }


def base_facts(base: PinnedBase) -> dict[str, Any]:
    """The base model, at its commit."""
    return known(
        repo=base.repo,
        commit=base.commit,
        license=base.licence,
        architecture=base.architecture,
        parameters=base.parameters,
    )


def data_facts(data: PreparedData) -> list[dict[str, Any]]:
    """Each source of the data, at its commit."""
    return [
        {
            "set": name,
            "repo": source.repo,
            "commit": source.commit,
            "split": source.split,
            **({"local": True} if source.local else {}),
            **known(license=source.licence, rows=source.used),
        }
        for name, found in sorted(data.sets.items())
        for source in found.sources
    ]


def answers_of(measured: StopRates, verdict: GateVerdict | None) -> dict[str, Any]:
    """How many answers of each form ended with the end-of-turn token, and the share that the gate asks for."""
    forms = sorted(measured.forms.items())
    return {
        "max_new_tokens": measured.max_new_tokens,
        **({"at_least": verdict.threshold} if verdict and verdict.threshold is not None else {}),
        "forms": {form: {"stopped": rate.stopped, "prompts": rate.prompts} for form, rate in forms},
    }


def _trainings(recipe: Mapping[str, Any], adapters: Mapping[str, TrainedAdapter]) -> Iterator[dict[str, Any]]:
    """What was measured of each training stage that led to the variant; nothing of what was trained elsewhere."""
    for name in recipe["stages"]:
        trained = adapters.get(name)
        if trained is None or trained.steps is None:
            continue
        yield known(
            stage=name,
            method=trained.method,
            form=trained.form,
            rows=trained.rows,
            epochs=trained.epochs,
            steps=trained.steps,
            tokens=trained.tokens,
            seconds=trained.seconds,
            device=trained.device,
            processes=trained.processes,
            quantization=trained.quantization,
        )


def known(**facts: Any) -> dict[str, Any]:
    """Those of ``facts`` that are known."""
    return {name: value for name, value in facts.items() if value is not None}
