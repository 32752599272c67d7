"""Build the Space in which people chat with the revisions, test it locally, deploy it, and send a test prompt.

    space:
      repo: me/my-model-chat
      prompts: ["What is the capital of France?"]

The app loads every revision by its commit. It is started locally first, and each revision answers one prompt; then its
files go to the Hub in one commit; when the Hub runs it, each is asked the same. If an answer is another one, the Space
is rolled back to the version before, or paused when it has none. The model's branches are not touched, whatever
happens.

Writes ``space.json``; ``app/``, the Space's files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hubkit.cards.space_and_dataset_cards import SpacePage, space_card
from hubkit.core.bounded_json import load_json
from hubkit.core.errors import RefusedError, RemoteError, UsageError
from hubkit.core.findings import Finding
from hubkit.core.output import hide
from hubkit.core.target import Target
from hubkit.evals.scores import Measured
from hubkit.hub.client import Hub, Visibility, connect
from hubkit.models.base import PinnedBase
from hubkit.models.chat.stop_rates import MeasuredRate, StopRates
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.attempts import interrupted_deploys
from hubkit.publishing.released import ReleasedBranches
from hubkit.publishing.spaces import building, deployment
from hubkit.publishing.spaces.deployed import APP, ENDINGS, DeployedSpace, GivenAnswer, changed_since, compare_answers
from hubkit.publishing.spaces.measurements import BASE, benchmark_table, measured_answers
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 5
SHAPED_BY = ("hubkit", "gradio", "gradio_client", "transformers", "peft")
QUESTION = "Hello! Who are you?"


@dataclass(frozen=True)
class Settings:
    """The Space and its facts; ``model`` is the repo that it shows, ``titles`` and ``labels`` name the variants.

    ``closed``: not everybody may read the files that it loads.
    """

    repo: str
    model: str
    visibility: Visibility
    title: str
    license: str | None
    prompts: tuple[str, ...]
    hardware: str | None
    titles: Mapping[str, str]
    labels: Mapping[str, str]
    closed: bool
    max_new_tokens: int
    description: str | None = None
    datasets: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        space = recipe.space
        if space is None:
            raise ValueError("the recipe has no Space")
        return cls(
            repo=space.repo,
            model=recipe.repo,
            visibility=recipe.visibility,
            title=space.title or recipe.card.title,
            license=recipe.license,
            prompts=space.prompts,
            hardware=space.hardware,
            titles={name: variant.title or name for name, variant in recipe.variants.items()},
            labels={name: recipe.label(name) for name in recipe.variants},
            closed=recipe.visibility == "private" or bool(recipe.gated),
            max_new_tokens=recipe.answer_tokens,
            description=space.description,
            datasets=tuple(source.repo for sources in recipe.data.values() for source in sources if source.repo),
        )


@dataclass(frozen=True)
class Inputs:
    """The released branches, and what the app shows about them: the base, the dtype and what was measured."""

    base: PinnedBase
    merged: Mapping[str, MergedWeights]
    stop_rates: Mapping[str, StopRates]
    released: ReleasedBranches
    base_stop_rate: StopRates | None = None
    base_benchmarks: Measured | None = None
    benchmarks: Mapping[str, Measured] = field(default_factory=dict)


Output = DeployedSpace
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """The right to write the Space, who can see it, and whether a private one is given a token of its own."""
    settings, hub = ctx.settings, connect(ctx.target)
    repo = settings.repo
    if problem := hub.writing_problem(repo, "space"):
        yield Finding(
            "error",
            f"Cannot deploy the Space {repo}: {problem}.",
            "Log in with a token that may write to it, or change `space` in the recipe.",
        )
    elif hub.repo_exists(repo, "space"):
        if (found := hub.visibility(repo, "space")) != settings.visibility:
            yield Finding(
                "error",
                f"The Space {repo} is {found}, but the recipe says {settings.visibility}.",
                f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
            )
        if (shown := _shown_model(hub, repo)) not in {None, settings.model}:
            yield Finding(
                "error",
                f"The Space {repo} shows another model, {shown}.",
                "Set `space` in the recipe to another Space, or delete that one.",
            )
    if settings.closed and not ctx.target.embedded and not os.environ.get(building.TOKEN):
        why = "private" if settings.visibility == "private" else "gated"
        yield Finding(
            "error",
            f"{settings.model} is {why}, so its Space needs a token to load it; {building.TOKEN} is not set.",
            f"Create a read-only token for {settings.model} and {repo} at {hub.endpoint}/settings/tokens and set "
            f"{building.TOKEN}.",
            exit_code=2,
        )


def _page(ctx: StageContext) -> SpacePage:
    """What the Hub shows of the Space beside its app."""
    settings = ctx.settings
    pictured = not settings.closed and MAIN in ctx.inputs.stop_rates
    return SpacePage(settings.datasets, settings.hardware, settings.description, pictured)


def _shown_model(hub: Hub, repo: str) -> str | None:
    """The model repo that the Space is about, when a release deployed it."""
    try:
        return str(load_json(hub.read_file(repo, "release.json", MAIN, "space") or b"")["repo"])
    except (ValueError, KeyError, TypeError):
        return None


def run(ctx: StageContext) -> StageResult[DeployedSpace]:
    """Deploy. RefusedError when the app does not run here or answers differently there, RemoteError when it does not
    run on the Hub."""
    settings, hub = ctx.settings, connect(ctx.target)
    repo, shown = settings.repo, facts(ctx)
    folder = ctx.out / APP
    bundle = building.build(shown, space_card(shown, _page(ctx)), folder)
    label = f"space {repo}"
    earlier = hub.tokens(label) if ctx.target.embedded else []
    token = _token(settings, ctx.target, hub, label)
    names = [item.name for item in shown.revisions]
    question = (*shown.prompts, QUESTION)[0]

    answers: list[GivenAnswer] = []
    tried: dict[str, building.Answer] = {}

    def ask(url: str, where: str, share: float, reading: str | None = None) -> None:
        for index, name in enumerate(names):
            ctx.report(f"asking {name} {where}", share + 0.1 * index / len(names))
            answer = building.ask(url, question, name, token=reading)
            answers.append(GivenAnswer.of(answer, where))
            compare_answers(tried.setdefault(name, answer), answer, repo, same_machine=ctx.target.embedded)

    ctx.report("starting it on this machine", 0.05)
    environment = building.environment(ctx.target.endpoint, ctx.target.home / "hub", token=token)
    with building.trial(folder, environment | _threads(ctx.inputs.base)) as app:
        ask(app.url, "here", 0.3)
    private = settings.visibility == "private" and not ctx.target.embedded
    ctx.report("deploying", 0.4)
    try:
        done = deployment.deploy(
            hub,
            repo,
            bundle,
            settings.visibility,
            title=f"Show {', '.join(f'{item.name} at {item.commit[:12]}' for item in shown.revisions)}",
            hardware=settings.hardware,
            secrets={"HF_TOKEN": token} if token else None,
            ask=lambda host: ask(host, "on the Hub", 0.9, token if private else None),
            before=interrupted_deploys(ctx.earlier.notes),
            report=lambda words, share: ctx.report(words, 0.6),
            note=ctx.note,
        )
    except (RemoteError, RefusedError) as error:
        raise type(error)(error.message, hint=f"The model's branches stay released. {error.hint}") from error
    hub.revoke_tokens(earlier)  # not before: the version that ran until now read with one of them
    warnings = done.warnings(repo)
    if not done.host:
        warnings.append(f"The Space {repo} is paused on {hub.endpoint}, so it was not tested there.")
    deployed = DeployedSpace(
        repo=repo, commit=done.commit, previous=done.previous, answers=tuple(answers), folder=ctx.out
    )
    figure = f"{repo} at {done.commit[:12]}: {_endings(answers[-len(names) :])}"
    return StageResult(deployed, figure, tuple(warnings))


def facts(ctx: StageContext) -> building.Facts:
    """The facts that the app shows, from what was measured and promoted."""
    base, settings, inputs = ctx.inputs.base, ctx.settings, ctx.inputs
    names = sorted(inputs.released.variants, key=lambda name: name != MAIN)
    rates = {name: _rate(inputs, name) for name in names}
    base_rate = inputs.base_stop_rate.base if inputs.base_stop_rate else None
    columns = sorted(names, key=lambda name: name == MAIN)  # as on the card
    results = {BASE: inputs.base_benchmarks} | {settings.labels[name]: inputs.benchmarks.get(name) for name in columns}
    return building.Facts(
        title=settings.title,
        repo=settings.model,
        licence=settings.license or base.licence or "unknown",
        base=(base.repo, base.commit),
        dtype=next(iter(inputs.merged.values())).dtype,
        end_of_turn=(base.end_of_turn.id, base.end_of_turn.token),
        max_new_tokens=settings.max_new_tokens,
        revisions=[_revision(ctx, name, rates[name]) for name in names],
        prompts=settings.prompts,
        base_stop_rate=(base_rate.stopped, base_rate.prompts) if base_rate else None,
        answers=measured_answers({BASE: base_rate} | {settings.labels[name]: rate for name, rate in rates.items()}),
        benchmarks=benchmark_table({name: found.results if found else None for name, found in results.items()}),
    )


def _rate(inputs: Inputs, variant: str) -> MeasuredRate | None:
    """The stop rate of the form that the app loads."""
    forms = inputs.stop_rates[variant].forms if variant in inputs.stop_rates else {}
    return forms.get("adapter" if inputs.merged[variant].form == "adapter" else "merged")


def _revision(ctx: StageContext, variant: str, rate: MeasuredRate | None) -> building.Revision:
    settings, released = ctx.settings, ctx.inputs.released
    repo = released.place(variant).repo
    counts = (rate.stopped, rate.prompts) if rate else (0, 0)
    return building.Revision(
        settings.labels[variant], released.variants[variant].commit, settings.titles[variant], *counts,
        form=ctx.inputs.merged[variant].form, repo=repo if repo != settings.model else None,
    )  # fmt: skip


def _token(settings: Settings, target: Target, hub: Hub, label: str) -> str | None:
    """A token with which the app may read a private or gated repo, and do nothing else; None when it needs none."""
    if target.embedded:
        return hub.reading_token(label) if settings.closed else None
    token = os.environ.get(building.TOKEN)
    if settings.closed and not token:
        raise UsageError(
            f"{building.TOKEN} is not set.",
            hint="Set it to a read-only token: the Space of a private or gated repo needs one.",
        )
    hide(token)
    return token


def _threads(base: PinnedBase) -> dict[str, str]:
    """All the cores for a model that is not small; threads of a small one only wait for each other."""
    return {"OMP_NUM_THREADS": "1" if base.is_small else str(os.cpu_count() or 1)}


def _endings(answers: Iterable[GivenAnswer]) -> str:
    return ", ".join(f"{item.revision} {ENDINGS.get(item.ended, item.ended)}" for item in answers)


def outdated(ctx: StageContext, deployed: DeployedSpace) -> str | None:
    """None while the Space holds what was deployed and nothing keeps it from running."""
    return changed_since(connect(ctx.target), deployed)
