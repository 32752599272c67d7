"""Build the Space in which people talk to the revisions, try it on this machine, deploy it, and ask it a question.

    space:
      repo: me/my-model-chat
      prompts: ["What is the capital of France?"]

The app loads every revision by its commit. It is started here first, and each revision is asked one question; then its
files go to the Hub in one commit; and when the Hub runs it, they are asked again. The model's branches are not touched,
whatever happens.

Makes: ``space.json`` {repo, commit, previous, answers: [{where, prompt, revision, text, ended, tokens, seconds}]};
``app/``, the Space's files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from hubkit.cards import space_card
from hubkit.core.errors import RemoteError, UsageError
from hubkit.core.files import Manifest, write_json
from hubkit.core.findings import Finding
from hubkit.core.output import hide
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub, connect
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.spaces import building, deployment
from hubkit.recipe.names import MAIN
from hubkit.recipe.stage import Artifact, Context

VERSION = 1
SHAPED_BY = ("hubkit", "gradio", "gradio_client", "transformers", "peft")
QUESTION = "Hello! Who are you?"
_SMALL = 20_000_000


def check(ctx: Context) -> Iterable[Finding]:
    """The right to write the Space, who can see it, and whether a private one is given a token of its own."""
    hub, repo = connect(ctx.target), str(ctx.settings["space"]["repo"])
    if problem := hub.writing_problem(repo, "space"):
        yield Finding(
            "error",
            f"Cannot deploy the Space {repo}: {problem}.",
            "Log in with a token that may write there, or change `space` in the recipe.",
        )
    elif hub.repo_exists(repo, "space"):
        if (found := hub.visibility(repo, "space")) != ctx.settings["visibility"]:
            yield Finding(
                "error",
                f"The Space {repo} is {found}, and the recipe says {ctx.settings['visibility']}.",
                f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
            )
        if (shown := _shown_model(hub, repo)) not in {None, ctx.settings["repo"]}:
            yield Finding(
                "error",
                f"The Space {repo} shows another model, {shown}.",
                "Name a Space of its own (`space` in the recipe), or remove that one.",
            )
    if ctx.settings["visibility"] == "private" and not ctx.target.embedded and not os.environ.get(building.TOKEN):
        yield Finding(
            "error",
            f"{ctx.settings['repo']} is private, so its Space needs a token to load it; {building.TOKEN} is not set.",
            f"Make a token at {hub.endpoint}/settings/tokens that may only read, this repo and {repo}; "
            f"set {building.TOKEN} to it.",
            exit_code=2,
        )


def _shown_model(hub: Hub, repo: str) -> str | None:
    """The model repo that the Space is about, when a release deployed it."""
    try:
        return str(json.loads(hub.read_file(repo, "release.json", MAIN, "space") or b"")["repo"])
    except (ValueError, KeyError, TypeError):
        return None


def run(ctx: Context) -> Artifact:
    """Deploy. RefusedError when the app does not run here, RemoteError when it does not run on the Hub."""
    hub, wanted = connect(ctx.target), ctx.settings["space"]
    repo, known = str(wanted["repo"]), facts(ctx)
    bundle = building.build(known, space_card(known), ctx.out / "app")
    label = f"space {repo}"
    earlier = hub.tokens(label) if ctx.target.embedded else []
    token = _token(ctx, hub, label)
    names = [item.name for item in known.revisions]
    question = (*known.prompts, QUESTION)[0]

    answers: list[dict[str, Any]] = []

    def ask(url: str, where: str, share: float, reading: str | None = None) -> None:
        for index, name in enumerate(names):
            ctx.report(f"asking {name} {where}", share + 0.1 * index / len(names))
            answer = building.ask(url, question, name, known.max_new_tokens, token=reading)
            answers.append({"where": where, **answer.to_json()})

    ctx.report("starting it on this machine", 0.05)
    environment = building.environment(
        ctx.target.endpoint, ctx.target.home / "hub", embedded=ctx.target.embedded, token=token
    )
    with building.trial(ctx.out / "app", environment | _threads(ctx)) as app:
        ask(app.url, "here", 0.3)
    private = ctx.settings["visibility"] == "private" and not ctx.target.embedded
    ctx.report("deploying", 0.4)
    try:
        done = deployment.deploy(
            hub,
            repo,
            bundle,
            ctx.settings["visibility"],
            title=f"Show {', '.join(f'{item.name} at {item.commit[:12]}' for item in known.revisions)}",
            hardware=wanted["hardware"],
            secrets={"HF_TOKEN": token} if token else None,
            ask=lambda host: ask(host, "on the Hub", 0.9, token if private else None),
            before=_interrupted(ctx),
            report=lambda words, share: ctx.report(words, 0.6),
            note=lambda point, **said: ctx.run.log(point, step=ctx.step, **said),
        )
    except RemoteError as error:
        raise RemoteError(
            error.message, hint=f"The model's branches are as they were released. {error.hint}"
        ) from error
    hub.revoke_tokens(earlier)  # not before: the version that ran until now read with one of them
    write_json(
        ctx.out / "space.json", {"repo": repo, "commit": done.commit, "previous": done.previous, "answers": answers}
    )
    warnings = done.warnings(repo)
    if not done.host:
        warnings.append(f"The Space {repo} rests on {hub.endpoint}, so it was not asked anything there.")
    return ctx.artifact(figure=f"{repo} at {done.commit[:12]}: {_told(answers[-len(names) :])}", warnings=warnings)


def facts(ctx: Context) -> building.Facts:
    """What the app is told, from what was measured and promoted."""
    base, settings = ctx.input("base").json("base.json"), ctx.settings
    moved = ctx.input("promote").json("release.json")["variants"]
    merges, measured = ctx.each("merge"), ctx.each("stopping")
    revisions = []
    for name in sorted(moved, key=lambda name: name != MAIN):
        form = measured[name].json("stopping.json")["forms"]["adapter"]
        title = settings["variants"][name]["title"] or name
        revisions.append(building.Revision(name, moved[name]["commit"], title, form["stopped"], form["prompts"]))
    return building.Facts(
        title=settings["space"]["title"] or settings["card"]["title"],
        repo=settings["repo"],
        licence=settings["license"] or base["licence"],
        base=(base["repo"], base["commit"]),
        dtype=next(iter(merges.values())).json("merge.json")["dtype"],
        end_of_turn=(base["end_of_turn"]["id"], base["end_of_turn"]["token"]),
        max_new_tokens=int(settings["gates"]["stop_rate"]["max_new_tokens"]),
        revisions=revisions,
        prompts=settings["space"]["prompts"],
    )


def _interrupted(ctx: Context) -> dict[str, str]:
    """Of this run's commits to the Space that were not seen to run: the commit that ran before."""
    found: dict[str, str] = {}
    for line in ctx.run.journal():
        if line["event"] == "space-committed" and line["previous"]:
            found[line["commit"]] = line["previous"]
        elif line["event"] == "space-runs":
            found.pop(line["commit"], None)
    return found


def _token(ctx: Context, hub: Hub, label: str) -> str | None:
    """A token with which the app may read a private repo, and do nothing else; None when it needs none."""
    private = ctx.settings["visibility"] == "private"
    if ctx.target.embedded:
        return hub.reading_token(label) if private else None
    token = os.environ.get(building.TOKEN)
    if private and not token:
        raise UsageError(f"{building.TOKEN} is not set.", hint="The Space of a private repo needs a token of its own.")
    hide(token)
    return token


def _threads(ctx: Context) -> dict[str, str]:
    """All the cores for a model that is not small; threads of a small one only wait for each other."""
    large = (ctx.input("base").json("base.json")["parameters"] or 0) >= _SMALL
    return {"OMP_NUM_THREADS": str(os.cpu_count() or 1)} if large else {"OMP_NUM_THREADS": "1"}


def _told(answers: list[dict[str, Any]]) -> str:
    words = {"turn end": "stopped", "limit": "cut at the limit"}
    return ", ".join(f"{item['revision']} {words.get(item['ended'], item['ended'])}" for item in answers)


def holds(ctx: Context, artifact: Artifact) -> str | None:
    """None while the Space holds what was deployed and nothing keeps it from running."""
    hub, said = connect(ctx.target), artifact.json("space.json")
    repo = said["repo"]
    if not hub.repo_exists(repo, "space"):
        return f"the Space {repo} is not there any more"
    head = hub.head(repo, "main", "space")
    if head != said["commit"]:
        made = artifact.manifest.files.items()
        manifest = Manifest({name.removeprefix("app/"): item for name, item in made if name.startswith("app/")})
        if head is None or not holds_release(hub.tree(repo, head, "space"), tree_of(manifest)):
            return f"the Space {repo} was changed"
    stage = hub.runtime(repo).stage
    return None if stage in deployment.RESTING | deployment.COMING else f"the Space {repo} is {stage}"
