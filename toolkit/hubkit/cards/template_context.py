"""The variables of the card templates: the recipe's texts, and the results as numbers that know their file.

Everything that a card reports about the variants is computed here, from measurements; templates only format it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hubkit import __version__
from hubkit.cards.adopted import adopted_context
from hubkit.cards.benchmarks import benchmarks, scores
from hubkit.cards.citation import citation
from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence, card_step
from hubkit.cards.first_screen import METHODS, answers, origin, pipeline_call, to_use
from hubkit.cards.gguf import gguf_context, has_gguf_card
from hubkit.cards.measured import many_objects, value_of, wrap
from hubkit.cards.memory import running
from hubkit.cards.metadata import Metadata
from hubkit.cards.pictures import pictures_of
from hubkit.cards.render import ADAPTER_CARD, GGUF_CARD, MODEL_CARD, Rendered, render_card
from hubkit.cards.repair import stop_rate_repair
from hubkit.cards.reported import reported_results, reported_scores
from hubkit.cards.works_with import works_with
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import digest_of
from hubkit.models.chat import rendering
from hubkit.publishing.manifest import MANIFEST_PATH
from hubkit.recipe.models import OLD_ACCEPT, Recipe, Training
from hubkit.recipe.names import MAIN

SYSTEM = "You are a helpful assistant."
QUESTION = "What do you know about the moon?"
FORMS = {"merged": "merged weights", "adapter": "adapter on the base", "four-bit": "adapter on the 4-bit base (NF4)"}
SERVE_URL = "http://localhost:8000/v1"
"""Where `transformers serve` and `vllm serve` answer."""
EXAMPLES = "examples.json"
"""In the artifact of the cards, where no stop rate was measured: the token limit of the examples."""
_FACTS = (
    "rows", "epochs", "steps", "seconds", "tokens_per_second", "peak_memory_bytes", "device",
    "processes", "global_batch",
)  # fmt: skip
_INSTALL = ("transformers", "torch")
PUBLISHED = ("merged", "adapter")


@many_objects()
def build_context(recipe: Recipe, variant: str, evidence: Evidence) -> dict[str, Any]:
    """All template variables of the cards of ``variant``.

    Keys: ``title summary intended_use limitations tracking authors contact source licence`` (the recipe's words;
    ``contact`` and ``source`` go through the filter ``link``), ``origin`` (what it was made from), ``memory
    sampling`` (see :func:`hubkit.cards.memory.running`), ``repo branch`` (where this variant is), ``variant label
    noun`` (its name, what a reader calls it, and "branch" or "repository"), ``separate_repos`` (each variant has a
    repo of its own), ``papers doi new_version gated``, ``end_of_turn base``, ``here`` and ``variants`` (see
    :func:`_variant`), ``shown`` (the columns of their table), ``to_use`` (one of them, or None), ``answers`` (real
    ones, of each), ``erratum``, ``training`` (the stages of the chain; ``probed``: one has stop rates),
    ``benchmarks``, ``gguf`` (see :func:`hubkit.cards.gguf.gguf_context`), ``reported``, ``prompt``, ``question``,
    ``max_new_tokens``, ``provenance``, ``metadata`` (by card), ``serve_url``, ``citation``, ``pictures`` (their paths
    by name, None for those that there are not).
    """
    files = evidence.wrapped()
    base = _file(files, "base", "base.json")
    tracking = recipe.card.tracking or ""
    licence = licence_of(recipe, base)
    variants = [_variant(recipe, name, files, evidence) for name in _shown_order(recipe)]
    here = next(item for item in variants if item["variant"] == variant)
    stopping = _file(files, "base-stopping", "stopping.json")
    chain = recipe.chain(recipe.variants[variant].stage)
    wrong = stop_rate_repair(recipe, variant, {item["variant"]: item for item in variants}, evidence)
    if wrong:
        broken = recipe.chain(recipe.variants[wrong["broken"]["variant"]].stage)
        wrong["stages"] = [_stage(recipe, name, files) for name in wrong["stages"]]
        wrong["findings"] = [item for item in _findings(files, broken) if _about_end_of_turn(item)]
    made = {
        "title": clean(recipe.card.title),
        "summary": clean(recipe.card.summary or "").strip(),
        "origin": origin(recipe, variant),
        "intended_use": clean(recipe.card.intended_use or "").strip(),
        "limitations": clean(recipe.card.limitations or "").strip(),
        "tracking": clean(tracking) if tracking != "none" else "",
        "reports": not tracking,
        "authors": [clean(name) for name in recipe.card.authors],
        "contact": clean(recipe.card.contact or ""),
        "source": clean(recipe.card.source or ""),
        "licence": clean(licence),
        "licence_name": clean(recipe.license_name or ""),
        "licence_link": clean(recipe.license_link or ""),
        "space": recipe.space.repo if recipe.space else "",
        **_place(recipe, variant),
        "papers": [{"id": paper, "url": f"https://arxiv.org/abs/{paper}"} for paper in recipe.card.papers],
        "doi": f"https://doi.org/{recipe.card.doi}" if recipe.card.doi else None,
        "main": MAIN,
        "base": base,
        "end_of_turn": base["end_of_turn"]["token"],
        "base_stopping": (stopping.get("forms") or {}).get("base"),
        "base_average": _average(files, "base-scores"),
        "variants": variants,
        "shown": _shown(variants),
        "to_use": to_use(variants, evidence),
        "answers": answers((stopping.get("forms") or {}).get("base"), variants),
        "headline": _headline(recipe, variants, files),
        "one_repair": len(variants) == 2,
        "several_variants": len(variants) > 1,
        "several_stages": len(chain) > 1,
        "all_stages_full": all(recipe.stages[name].trains_all_weights for name in chain),
        "here": here,
        "erratum": wrong,
        "findings": [item for item in _findings(files, chain) if item not in (wrong or {}).get("findings", [])],
        "training": (training := [_stage(recipe, name, files) for name in chain]),
        "probed": any(stage["probes"] for stage in training),
        "overlap": _file(files, "data", "data.json").get("overlap") or None,
        "any_data": any(recipe.stages[name].data for name in chain),
        "data_licences": (licences := _licences(files, recipe, chain)),
        "several_datasets": len(licences) > 1,
        "one_licence": licences[0][1] if len({licence for _, licence in licences}) == 1 else "",
        "benchmarks": benchmarks(recipe, variant, files, evidence),
        "own_prompts": recipe.gates.stop_rate is not None and recipe.gates.stop_rate.prompts_from is None,
        "reported": reported_results(recipe, variant, evidence),
        "prompt": _prompt(evidence),
        "system": SYSTEM,
        "question": clean(evidence.question or QUESTION),
        "max_new_tokens": stopping.get("max_new_tokens") or _answer_tokens(recipe, variant, evidence),
        "provenance": _provenance(recipe, variant, files),
        "metadata": _metadata(recipe, variant, licence, files, evidence),
        "serve_url": SERVE_URL,
        "citation": citation(recipe, variant),
        **(runs := running(variant, evidence)),
        "quantized_memory": (runs["memory"] or {}).get("nf4"),
        "gguf": gguf_context(recipe, variant, evidence),
        "works_with": works_with(variant, evidence),
    }
    return {**made, "pictures": pictures_of(made)}


@many_objects()
def cards_of(
    recipe: Recipe, variant: str, evidence: Evidence, own: Path | None = None
) -> tuple[dict[str, Any], dict[str, Rendered]]:
    """The context of the cards of ``variant``, and the cards, by their names. ``own``: see :func:`render_card`."""
    made = build_context(recipe, variant, evidence)
    names = [name for name in card_names(recipe, variant) if name != GGUF_CARD or made["gguf"]]
    return made, {name: render_card(made, name, own=own) for name in names}


def card_names(recipe: Recipe, variant: str) -> tuple[str, ...]:
    """The cards of ``variant``: that of its branch, of its adapter, and of the place of its GGUF files."""
    adapter = (ADAPTER_CARD,) if recipe.published_form(variant) == "adapter" else ()
    return (MODEL_CARD, *adapter, *((GGUF_CARD,) if has_gguf_card(recipe, variant) else ()))


def _answer_tokens(recipe: Recipe, variant: str, evidence: Evidence) -> Any:
    """The token limit of the examples where no stop rate was measured: kept as a file of the card's own step."""
    evidence.derived.setdefault(card_step(variant), {})[EXAMPLES] = (plain := {"max_new_tokens": recipe.answer_tokens})
    return wrap(plain, card_step(variant), EXAMPLES)["max_new_tokens"]


def _shown(variants: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Which columns the table of variants has, and whether there is such a table."""
    columns = {
        "stop_rate": any(item["merged"] for item in variants),
        "adapter": any(item["adapter"] for item in variants),
        "average": any(item["average"] is not None for item in variants),
        "gate": any(item["gate"] for item in variants),
    }
    return {**columns, "table": any(columns.values()) or len(variants) > 1}


def _headline(recipe: Recipe, variants: Sequence[Mapping[str, Any]], files: Mapping[str, Any]) -> dict[str, str]:
    """How the benchmarks are named in a column of one number, and the format of that number."""
    results = [found for name in recipe.variants if (found := _file(files, f"evaluate[{name}]", "results.json"))]
    titles = {suite["title"] for found in results for suite in found["suites"].values()}
    averages = [_average(files, "base-scores"), *(item["average"] for item in variants)]
    shares = all(0 <= value_of(number) <= 1 for number in averages if number is not None)
    return {
        "title": clean(titles.pop()) if len(titles) == 1 else "Benchmark average",
        "form": "percent" if shares else "score",
    }


def _place(recipe: Recipe, variant: str) -> dict[str, Any]:
    """Where ``variant`` is, how a card says so, and who may read it there."""
    place, separate = recipe.place(variant), recipe.layout == "repos"
    return {
        "repo": place.repo,
        "branch": place.branch,
        "variant": variant,
        "label": clean(recipe.label(variant)),
        "noun": "repository" if separate else "branch",
        "preposition": "in" if separate else "on",
        "separate_repos": separate,
        "new_version": recipe.newer(variant),
        "gated": bool(recipe.gated),
        "pipeline_call": pipeline_call(place.repo, place.branch),
    }


def _shown_order(recipe: Recipe) -> list[str]:
    """``main`` first: it is what a reader gets who asks for nothing."""
    return sorted(recipe.variants, key=lambda name: name != MAIN)


def _file(files: Mapping[str, Any], step: str, name: str) -> dict[str, Any]:
    return dict(files.get(step, {}).get(name) or {})


def _average(files: Mapping[str, Any], step: str) -> Any:
    return (_file(files, step, "results.json").get("average") or {}).get("value")


def _variant(recipe: Recipe, name: str, files: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    """One row of the table of variants. ``own_repo`` is the repo that is its own, or empty.

    ``stopping`` lists the published forms as (words, result), ``four_bit`` is the form that was trained; ``agreement``
    is how far the published forms agree, with its noise floor; ``gate`` is the verdict of the gate, or None, and
    ``gate_result`` the same in words. ``form`` is "weights" where there is no adapter.
    """
    stopping = _file(files, f"stopping[{name}]", "stopping.json")
    forms = stopping.get("forms") or {}
    stages = recipe.chain(recipe.variants[name].stage)
    gates = _file(files, "gate", "gates.json").get("variants") or {}
    merge = _file(files, f"merge[{name}]", "merge.json")
    place = recipe.place(name)
    return {
        "variant": name,
        "branch": place.branch,
        "own_repo": place.repo if recipe.layout == "repos" else "",
        "label": clean(recipe.label(name)),
        "form": recipe.published_form(name),
        "what": clean(recipe.variants[name].title or " + ".join(stages)),
        "stages": list(stages),
        "stopping": [(FORMS[form], forms.get(form)) for form in PUBLISHED],
        "forms": [
            ("weights" if recipe.published_form(name) == "weights" else FORMS[form], forms[form])
            for form in FORMS
            if form in forms
        ],
        "never": "merged" in forms and not value_of(forms["merged"]["stopped"]),
        "merged": forms.get("merged"),
        "adapter": forms.get("adapter"),
        "four_bit": forms.get("four-bit"),
        "agreement": stopping.get("agreement"),
        "average": _average(files, f"evaluate[{name}]"),
        "gate": {"benchmarks": [], **gates[name]} if name in gates else None,
        "gate_result": _gate_result(name, evidence),
        "failed_benchmarks": [
            item for item in (gates.get(name) or {}).get("benchmarks") or () if item["result"] == "failed"
        ],
        "merge": merge or None,
    }


def _gate_result(name: str, evidence: Evidence) -> str | None:
    """The verdict of the gates on the variant ``name``, in words; None without one."""
    verdicts = evidence.gates()
    found = verdicts.variants.get(name) if verdicts else None
    return found.result if found else None


def _uses(recipe: Recipe, name: str) -> str:
    stage: Training = recipe.stages[name]
    return stage.uses or name


def _stage(recipe: Recipe, name: str, files: Mapping[str, Any]) -> dict[str, Any]:
    """One stage of training: the trainer's report, its data with dropped rows, and the warnings of the data check."""
    made = _file(files, f"train[{name}]", "training.json")
    data = _file(files, "data", "data.json")
    stage = recipe.stages[name]
    sources = ((data.get("sets") or {}).get(stage.data or "") or {}).get("sources") or []
    lengths = (data.get("stages") or {}).get(name) or {}
    curve = made.get("curve") or []
    losses = [point["loss"] for point in curve if isinstance(point, dict) and point.get("loss") is not None]
    return {
        "name": clean(name),
        "method": METHODS.get(method := made.get("method") or clean(_uses(recipe, name)), method),
        "continues": clean(stage.continues or ""),
        "all_weights": stage.trains_all_weights,
        "set": clean(stage.data or ""),
        "adopted": adopted_context(made) if stage.adopted is not None else None,
        "sources": [_rows_of(source) for source in sources],
        "facts": {**dict.fromkeys(_FACTS), **made},
        "end_of_turn_lost": list((lengths.get("end_of_turn_lost") or {}).items()),
        "quantization": made.get("quantization") or stage.quantization,
        "train_on": stage.train_on,
        "lora": _lora(made.get("lora") or {}),
        "args": made.get("args") or {},
        "curve": [(point["step"], point["loss"]) for point in curve if point.get("loss") and point.get("step")],
        "evaluation": list(made.get("evaluation") or []),
        "probes": (probes := list(made.get("probes") or [])),
        "first_probe": probes[0] if probes else None,
        "only_probe": len(probes) == 1,
        "last_probe": probes[-1] if probes else None,
        "reports": [clean(url) for tracker in made.get("trackers") or [] if (url := tracker.get("url"))],
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }


def _rows_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """Where the rows of a source went: dropped, held out, for the evaluation loss, trained on.

    What a version before did not report is None, and so are zeros.
    """
    numbers = {name: source.get(name) for name in ("held_out", "evaluation")}
    parts: dict[str, Any] = {
        name: number if number is not None and value_of(number) else None for name, number in numbers.items()
    }
    used = source.get("used")
    trained = used if used is not None else source.get("kept")
    parts["trained"], parts["sampled"] = trained, trained is not None and value_of(trained) != value_of(source["read"])
    return {"used": None, **source, **parts, "dropped": list((source.get("dropped") or {}).items())}


def _lora(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter's settings; of the modules that it changes the last names, once each, for a 7B has hundreds."""
    modules = settings.get("target_modules")
    if not isinstance(modules, list):
        return dict(settings)
    return {**settings, "target_modules": list(dict.fromkeys(str(name).rsplit(".", 1)[-1] for name in modules))}


def _about_end_of_turn(finding: Mapping[str, Any]) -> bool:
    code = str(finding["code"])
    return OLD_ACCEPT.get(code, code) == "truncated-end-of-turn"


def _findings(files: Mapping[str, Any], chain: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the data check found and the recipe accepted, for the stages of ``chain`` (all, where it names no stage)."""
    found = _file(files, "data", "data.json").get("findings") or []
    return [item for item in found if item.get("accepted") and {*(item.get("stages") or chain)} & {*chain}]


def _licences(files: Mapping[str, Any], recipe: Recipe, chain: tuple[str, ...]) -> list[tuple[str, str]]:
    """(data set, licence) of what this variant was trained on; '' where the data set names none."""
    sets = _file(files, "data", "data.json").get("sets") or {}
    found: dict[str, str] = {}
    for name in chain:
        for source in (sets.get(recipe.stages[name].data or "") or {}).get("sources") or []:
            found.setdefault(source["repo"], source.get("licence") or "")
    return list(found.items())


def _prompt(evidence: Evidence) -> dict[str, str | None]:
    """A question as the shipped template renders it, without and with a system message (None: it refuses one)."""
    question = clean(evidence.question or QUESTION)
    plain, guided = _rendered(evidence.template, question, tuple(sorted(evidence.tokens.items())))
    return {"plain": plain, "system": guided}


@lru_cache(maxsize=64)
def _rendered(template: str, question: str, tokens: tuple[tuple[str, str], ...]) -> tuple[str, str | None]:
    asked = [{"role": "user", "content": question}]
    system = [{"role": "system", "content": SYSTEM}]
    plain, guided = rendering.render_untrusted(
        template, [(asked, True), ([*system, *asked], True)], variables=dict(tokens)
    )
    if plain.text is None:
        raise HubkitError(
            f"The chat template cannot render a question: {plain.problem}.", hint="Fix chat.template in the recipe."
        )
    return plain.text, guided.text


def _provenance(recipe: Recipe, variant: str, files: Mapping[str, Any]) -> dict[str, Any]:
    """Where everything came from: commits, digests, versions, and what the merge did."""
    sets = _file(files, "data", "data.json").get("sets") or {}
    stages = recipe.chain(recipe.variants[variant].stage)
    used = dict.fromkeys(data for name in stages if (data := recipe.stages[name].data) is not None)
    training = [_file(files, f"train[{name}]", "training.json") for name in stages]
    libraries: dict[str, str] = {}
    for made in [*training, _file(files, f"evaluate[{variant}]", "results.json")]:
        libraries.update(made.get("libraries") or {})
    return {
        "hubkit": __version__,
        "manifest": MANIFEST_PATH,
        "recipe": digest_of(recipe.model_dump(mode="json", exclude={"hub"})),
        "data": [source for name in used for source in (sets.get(name) or {}).get("sources") or []],
        "merge": _file(files, f"merge[{variant}]", "merge.json") or None,
        "libraries": sorted(libraries.items()),
        "tested": [f"{name}=={_public(libraries[name])}" if name in libraries else name for name in _INSTALL],
        "tested_peft": f"peft=={_public(libraries['peft'])}" if "peft" in libraries else "peft",
    }


def _public(version: str) -> str:
    """``version`` as package indexes have it, without the local part (``+cpu``)."""
    return version.partition("+")[0]


def licence_of(recipe: Recipe, base: Mapping[str, Any]) -> str:
    """The recipe's licence, else that of ``base`` (``base.json``). RefusedError when neither names one."""
    found = recipe.license or base.get("licence")
    if not found:
        raise RefusedError(
            f"Neither the recipe nor the card of {recipe.base.repo} names a license.",
            hint="Set `license:` in the recipe to a license that the base model allows.",
        )
    return str(found)


def _conversational(recipe: Recipe) -> list[str]:
    """The Hub's tag of models that chat; a completion model does not."""
    return [] if recipe.chat.template == "completion" else ["conversational"]


def _metadata(
    recipe: Recipe, variant: str, licence: str, files: Mapping[str, Any], evidence: Evidence
) -> dict[str, Metadata]:
    chain = recipe.chain(recipe.variants[variant].stage)
    methods = [_uses(recipe, name) for name in chain if recipe.stages[name].adopted is None]
    shared = partial(
        Metadata,
        name=clean(recipe.card.title),
        base_model=recipe.base.repo,
        licence=licence,
        licence_name=recipe.license_name,
        licence_link=recipe.license_link,
        language=recipe.card.language,
        datasets=[source.repo for name in chain for source in recipe.sources(name) if source.repo],
        new_version=recipe.newer(variant),
    )
    measured = scores(variant, files, evidence)
    own_repo = recipe.gguf is not None and recipe.gguf.place == "repo"
    return {
        MODEL_CARD: shared(
            relation=recipe.card.base_model_relation or "finetune",
            gated=recipe.card.gated_keys(),
            library="transformers",
            tags=[*recipe.card.tags, *methods, *_conversational(recipe), "hubkit"],
            scores=[*measured, *reported_scores(recipe, variant, evidence, measured)],
        ),
        ADAPTER_CARD: shared(relation="adapter", library="peft", tags=[*recipe.card.tags, *methods, "lora", "hubkit"]),
        GGUF_CARD: shared(
            base_model=recipe.place(variant).repo,
            relation="quantized",
            gated=recipe.card.gated_keys() if own_repo else {},
            library="gguf",
            tags=[*recipe.card.tags, *methods, *_conversational(recipe), "gguf", "llama-cpp", "hubkit"],
            new_version=None,
        ),
    }
