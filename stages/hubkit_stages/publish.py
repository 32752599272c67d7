"""Put a variant's bundle on a staging branch, and verify what the Hub then shows against the manifest.

    staging/main   <- config.json, model.safetensors, adapter/..., README.md, .gitattributes, .hubkit/manifest.json

Nobody who loads the model sees a staging branch. It begins at the repo's first commit, is changed in one commit, and is
left alone when it holds the bundle already.

Makes: ``published.json`` {repo, branch, commit, files, bytes}; ``bundle.json`` (the manifest of the whole bundle);
``written/`` (the two files that were written for it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hubkit import __version__, publishing
from hubkit.bundle import MANIFEST_PATH, Provenance, build
from hubkit.config import MAIN, STAGING
from hubkit.diff import compare, short_list, tree_of
from hubkit.files import Manifest, write_json
from hubkit.hub import Hub, connect
from hubkit.run import Artifact, Context, Finding

VERSION = 2
SHAPED_BY: tuple[str, ...] = ()


def check(ctx: Context) -> Iterable[Finding]:
    """The token's rights, who can see the repo, and whose files are on the branch already."""
    hub = connect(ctx.target)
    repo: str = ctx.settings["repo"]
    if problem := hub.writing_problem(repo):
        yield Finding(
            "error",
            f"Cannot publish to {repo}: {problem}.",
            "Log in with a token that may write there, or change `repo` in the recipe.",
        )
        return
    if not hub.repo_exists(repo):
        return
    found = hub.visibility(repo)
    if found != ctx.settings["visibility"]:
        yield Finding(
            "error",
            f"{repo} is {found}, and the recipe says {ctx.settings['visibility']}.",
            f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
        )
    yield from _foreign(hub, repo, ctx.variant_name or MAIN)


def _foreign(hub: Hub, repo: str, branch: str) -> Iterator[Finding]:
    head = hub.head(repo, branch)
    if head is None:
        return
    tree = hub.tree(repo, head)
    ours = Provenance.parse(hub.read_file(repo, MANIFEST_PATH, head) if MANIFEST_PATH in tree else None)
    foreign = sorted(tree.keys() - (ours.paths if ours else frozenset()) - {".gitattributes"})
    if foreign:
        yield Finding(
            "warning",
            f"The branch {branch!r} of {repo} holds files that no release of hubkit put there: "
            f"{short_list(foreign)}. They are kept, but for those of the same name.",
        )


def run(ctx: Context) -> Artifact:
    """Upload and verify. RefusedError before any byte when the screening or the repo's visibility says no."""
    hub = connect(ctx.target)
    repo, branch = str(ctx.settings["repo"]), f"{STAGING}/{ctx.variant_name}"
    ctx.report("screening the bundle", 0.05)
    bundle = build(ctx.input("merge"), ctx.input("train"), ctx.input("card"), provenance(ctx), ctx.out / "written")
    hub.ensure_repo(repo, ctx.settings["visibility"])

    def note(point: str, **facts: str) -> None:
        ctx.run.log(point, step=ctx.step, **facts)

    megabytes = bundle.manifest.size / 1e6
    ctx.report(f"uploading {len(bundle.files)} files, {megabytes:,.1f} MB", 0.2)
    commit = publishing.stage(hub, repo, branch, bundle, title=f"Release {ctx.variant_name}", note=note)
    ctx.report("verifying what the Hub holds", 0.9)
    publishing.verify(hub, repo, commit, bundle.manifest)
    note("staging-verified", branch=branch, commit=commit)
    write_json(
        ctx.out / "published.json",
        {
            "repo": repo,
            "branch": branch,
            "commit": commit,
            "files": len(bundle.files),
            "bytes": bundle.manifest.size,
            "tree": bundle.manifest.digest,
        },
    )
    write_json(ctx.out / "bundle.json", bundle.to_json())
    return ctx.artifact(
        figure=f"{len(bundle.files)} files, {megabytes:,.1f} MB at {commit[:12]}", commit=commit, branch=branch
    )


def provenance(ctx: Context) -> dict[str, Any]:
    """Where the bundle comes from. It holds no time: the same inputs give the same manifest."""
    base, data, training = (
        ctx.input("base").json("base.json"),
        ctx.input("data").json("data.json"),
        ctx.input("train").json("training.json"),
    )
    return {
        "made_by": {"hubkit": __version__, **training.get("libraries", {})},
        "repo": ctx.settings["repo"],
        "variant": ctx.variant_name,
        "base": {"repo": base["repo"], "commit": base["commit"]},
        "data": [
            {"set": name, **{key: source.get(key) for key in ("repo", "commit", "split")}}
            for name, found in sorted(data["sets"].items())
            for source in found["sources"]
        ],
        "stage": training["stage"],
        **_measured(ctx.input("card"), ctx.variant_name or ""),
    }


def _measured(card: Artifact, variant: str) -> dict[str, Any]:
    """The stop rates and the average that stand on the card, for those who list branches."""
    if "numbers.json" not in card.manifest.files:
        return {}
    rates: dict[str, float] = {}
    found: dict[str, Any] = {}
    for number in (item for numbers in card.json("numbers.json").values() for item in numbers):
        place = str(number["pointer"]).strip("/").split("/")
        if number["step"] == f"stopping[{variant}]" and place[0] == "forms" and place[2:] == ["rate"]:
            rates[place[1]] = number["value"]
        elif number["step"] == f"evaluate[{variant}]" and place == ["average", "value"]:
            found["average"] = number["value"]
    return {**({"stop_rates": dict(sorted(rates.items()))} if rates else {}), **found}


def holds(ctx: Context, artifact: Artifact) -> str | None:
    """None while the Hub still shows the staged commit as it was verified, on its branch or not."""
    hub, said = connect(ctx.target), artifact.json("published.json")
    if not hub.repo_exists(said["repo"]):
        return f"{said['repo']} is not there any more"
    tree = hub.tree_if_there(said["repo"], said["commit"])
    if tree is None:
        return f"the staged commit {said['commit'][:12]} is not there any more"
    if compare(tree_of(Manifest.from_json(artifact.json("bundle.json"))), tree):
        return f"the staged commit {said['commit'][:12]} holds other files"
    return None
