"""The result of a release, read from the artifacts of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubkit.cards.snippets.results import SnippetResults
from hubkit.core.target import Target
from hubkit.evals.results import Results
from hubkit.hub.pull_requests import pull_url
from hubkit.models.chat.gate_verdicts import GateResult, GateVerdicts
from hubkit.models.chat.stop_rates import StopRates
from hubkit.models.gguf.made import GgufFiles
from hubkit.publishing.collecting import FilledCollection
from hubkit.publishing.released import ReleasedBranches
from hubkit.publishing.replacing import ReplacedRepos
from hubkit.publishing.spaces.building import page
from hubkit.publishing.spaces.deployed import DeployedSpace
from hubkit.publishing.staged import StagedCommit


@dataclass(frozen=True)
class VariantOutcome:
    """One line of the table at the end. Rates and averages are shares; None: not measured, or no gate.

    ``blocks`` is how many Python blocks of its cards ran against the staged commit.
    """

    variant: str
    repo: str
    branch: str
    commit: str
    stop_rates: Mapping[str, float]
    passed: bool | None
    gate: GateResult | None
    average: float | None
    bytes: int
    blocks: int
    pull_request: str | None = None
    """The page of the pull request that proposes it; None: its branch holds it."""


@dataclass(frozen=True)
class GgufOutcome:
    """The GGUF files of a variant: where they are, and the stop rate by type (None: not measured)."""

    variant: str
    repo: str
    branch: str
    commit: str
    bytes: int
    stop_rates: Mapping[str, float | None]
    page: str
    """The address of the files, or of the pull request that proposes them."""


@dataclass(frozen=True)
class Outcome:
    """The result of a release. ``up_to_date``: it was finished before, and nothing was done."""

    repo: str
    run: str
    up_to_date: bool
    base_stop_rate: float | None
    base_average: float | None
    variants: tuple[VariantOutcome, ...]
    page: str
    space: str | None
    """Addresses of the model's page and the Space's; None: no Space was deployed."""
    collection: str | None = None
    """Address of the collection; None: the recipe has none."""
    replaced: tuple[str, ...] = ()
    """The older repos whose cards now name this one as their new version."""
    gguf: tuple[GgufOutcome, ...] = ()
    """GGUF files, by variant; none where the recipe asks for none."""

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        plain = asdict(self)
        plain["already"] = plain.pop("up_to_date")  # the key that programs read
        return plain


def read_outcome(made: Mapping[str, Path], run: str, target: Target, *, up_to_date: bool) -> Outcome:
    """The outcome of the finished run ``run``; ``made`` are the folders of its artifacts by step."""
    released = ReleasedBranches.load(made["promote"])
    verdicts = GateVerdicts.load(made["gate"]).variants if "gate" in made else {}
    endpoint, space = target.endpoint, made.get("space")
    lines = []
    for variant, moved in released.variants.items():
        repo, branch = released.place(variant)
        rates, verdict = _stop_rates(made, f"stopping[{variant}]"), verdicts.get(variant)
        lines.append(
            VariantOutcome(
                variant=variant,
                repo=repo,
                branch=branch,
                commit=moved.commit,
                stop_rates=rates,
                passed=verdict.all_passed if verdict else None,
                gate=verdict.result if verdict else None,
                average=_average(made, f"evaluate[{variant}]"),
                bytes=StagedCommit.load(made[f"publish[{variant}]"]).bytes,
                blocks=SnippetResults.load(made[f"snippets[{variant}]"]).ran,
                pull_request=pull_url(endpoint, repo, moved.pull_request) if moved.pull_request else None,
            )
        )
    return Outcome(
        repo=released.repo,
        run=run,
        up_to_date=up_to_date,
        base_stop_rate=_stop_rates(made, "base-stopping").get("base"),
        base_average=_average(made, "base-scores"),
        variants=tuple(lines),
        page=f"{endpoint}/{released.repo}",
        space=page(endpoint, DeployedSpace.load(space).repo) if space else None,
        collection=FilledCollection.load(made["collection"]).url if "collection" in made else None,
        replaced=tuple(ReplacedRepos.load(made["new-version"]).repos) if "new-version" in made else (),
        gguf=tuple(_gguf(made, released, target)),
    )


def _gguf(made: Mapping[str, Path], released: ReleasedBranches, target: Target) -> Iterator[GgufOutcome]:
    """The GGUF files of each variant that has some; those beside the weights are on the variant's own branch."""
    for variant in released.variants:
        if (step := f"gguf[{variant}]") not in made:
            continue
        files = GgufFiles.load(made[step]).files
        item, beside = released.gguf.get(variant), variant not in released.gguf
        repo, branch = released.place(variant) if beside else released.gguf_place(variant)
        item = item or released.variants[variant]
        page = f"{target.endpoint}/{repo}/tree/{branch}" + ("/gguf" if beside else "")
        yield GgufOutcome(
            variant=variant,
            repo=repo,
            branch=branch,
            commit=item.commit,
            bytes=sum(file.bytes for file in files),
            stop_rates={file.kind: file.stop_rate.rate if file.stop_rate else None for file in files},
            page=pull_url(target.endpoint, repo, item.pull_request) if item.pull_request else page,
        )


def _stop_rates(made: Mapping[str, Path], step: str) -> dict[str, float]:
    """The stop rates by form; empty when they were not measured."""
    forms = StopRates.load(made[step]).forms if step in made else {}
    return {form: rate.rate for form, rate in forms.items()}


def _average(made: Mapping[str, Path], step: str) -> float | None:
    """The average of the benchmarks; None when none was measured."""
    return Results.load(made[step]).average.value if step in made else None
