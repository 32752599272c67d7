"""Put a variant's bundle on a staging branch, and verify what the Hub then shows against the manifest.

    staging/main   <- config.json, model.safetensors, adapter/..., README.md, .gitattributes, .hubkit/manifest.json

Nobody who loads the model sees a staging branch. It begins at the repo's first commit, is changed in one commit, and is
left alone when it holds the bundle already.

A recipe that says ``pull_request`` has it proposed to the repo's owner: the commit is a pull request's then, and no
branch is written (:mod:`hubkit.publishing.proposals`).

What people edited on the branch's cards since the last release stays (:mod:`hubkit.cards.edits`). Where this release
writes the same place anew, nothing is published: ``hubkit release --overwrite-card`` says that it may be lost.

A recipe that says ``sign`` has the bundle signed. Signatures are random, so the one that was made is kept and used
again while the files are the same: a step that runs again makes no second commit.

Makes: ``published.json`` {repo, branch, commit, files, bytes, tree, pull_request (its number, or None), over: the cards
that were read on the branch}; ``bundle.json`` (the manifest of the whole bundle); ``written/`` (the files that were
written for it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hubkit import __version__
from hubkit.cards import Kept, keep_edits, validate
from hubkit.cards.snippets.blocks import without_front_matter
from hubkit.core.errors import ConflictError, HubkitError, RefusedError
from hubkit.core.files import Manifest, digest_of, write_atomic, write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, short_commit, size
from hubkit.core.trees import Entry, Tree, compare, tree_of
from hubkit.hub.client import Hub, connect
from hubkit.publishing import proposals, signing
from hubkit.publishing.bundle import NEEDED, Bundle, build
from hubkit.publishing.edited_cards import edited_cards
from hubkit.publishing.manifest import CARDS, GENERATED, MANIFEST_PATH, SIGNATURE_PATH, Provenance, provenance_at
from hubkit.publishing.ownership import decide, holds_release
from hubkit.publishing.read_back import verify_listing
from hubkit.publishing.staging import stage
from hubkit.recipe.names import MAIN, STAGING
from hubkit.recipe.stage import Artifact, Context

VERSION = 4
SHAPED_BY: tuple[str, ...] = ()


def check(ctx: Context) -> Iterable[Finding]:
    """Who signs, the token's rights, who can see the repo, and whose files are on the branch already."""
    try:
        signing.signer(ctx.settings.get("sign"), ctx.recipe_folder)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
    hub = connect(ctx.target)
    repo: str = ctx.settings["repo"]
    if ctx.settings.get("pull_request"):
        if problem := proposals.problem(hub, repo):
            yield Finding(
                "error",
                f"Cannot propose anything to {repo}: {problem}.",
                "Log in with a token that may open discussions there, or change `repo` in the recipe.",
            )
            return
    elif problem := hub.writing_problem(repo):
        yield Finding(
            "error",
            f"Cannot publish to {repo}: {problem}.",
            "Log in with a token that may write there, change `repo` in the recipe, or propose the release to the"
            " repo's owner with --pr.",
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
    branch = ctx.variant_name or MAIN
    if head := hub.head(repo, branch):
        tree = hub.tree(repo, head)
        yield from _foreign(repo, branch, tree, provenance_at(hub, repo, head, tree))
        overwrites = _overwrites(ctx)
        for path, before, now in _on_branch(hub, repo, head, tree):
            if not overwrites:
                yield from _edits(f"{path} of the branch {branch!r} of {repo}", before, now)


def _edits(card: str, before: str | None, now: str) -> Iterator[Finding]:
    """What is known of a card on the branch, before this release's own is written."""
    hint = "Move its words elsewhere, or publish over it: hubkit release --overwrite-card."
    if before is None:
        if without_front_matter(now).strip():
            yield Finding("error", f"{card} was written by no release of hubkit, and would be lost.", hint, 4)
        return
    found = keep_edits(before, now, before)
    if found.conflicts:
        yield Finding(
            "error", f"{card} was edited so that no release can keep the edit: {found.conflicts[0].where}.", hint, 4
        )
    elif found.kept:
        yield Finding(
            "warning",
            f"{card} was edited on the Hub: {', '.join(found.kept)}. "
            "That stays, unless this release writes the same place anew; then it stops before it publishes.",
        )


def _foreign(repo: str, branch: str, tree: Tree, ours: Provenance | None) -> Iterator[Finding]:
    """Files of other people on the branch, as far as can be known before the bundle is built. Cards: :func:`_edits`."""
    others = {path: entry for path, entry in tree.items() if path not in CARDS.values()}
    ownership = decide(others, dict.fromkeys([*NEEDED, MANIFEST_PATH]), ours.paths if ours else ())
    for sentence in ownership.sentences(f"The branch {branch!r} of {repo}"):
        yield Finding("warning", sentence)


def _on_branch(hub: Hub, repo: str, head: str, tree: Tree) -> Iterator[tuple[str, str | None, str]]:
    """(path, text as it was generated last time or None, text as it is) of each card on the branch at ``head``."""
    for name, path in CARDS.items():
        if path not in tree:
            continue
        if tree[path].size > _LARGEST_CARD:
            raise ConflictError(f"{path} of {repo} has {size(tree[path].size)}, too much for a card.")
        now = (hub.read_file(repo, path, head) or b"").decode(errors="replace")
        before = hub.read_file(repo, f"{GENERATED}/{name}", head) if f"{GENERATED}/{name}" in tree else None
        if before is None and _unchanged(hub, repo, head, path, tree):
            yield path, now, now
        else:
            yield path, before.decode(errors="replace") if before is not None else None, now


def _unchanged(hub: Hub, repo: str, head: str, path: str, tree: Tree) -> bool:
    """Whether the branch's manifest promises ``path`` as it is: a release wrote it that kept no copy of its cards."""
    found = provenance_at(hub, repo, head, tree)
    promised = found.promised.get(path) if found else None
    return promised is not None and tree[path].same(promised)


def _kept(ctx: Context, hub: Hub, repo: str) -> tuple[dict[str, Kept], dict[str, str]]:
    """The cards that a person edited on the branch, merged; and what was read there, a digest by path.

    ConflictError when an edit would be lost, RefusedError when a card is not fit for the Hub with it.
    """
    branch, head = ctx.variant_name or MAIN, None
    if hub.repo_exists(repo):
        head = hub.head(repo, branch)
    if head is None:
        return {}, {}
    tree = hub.tree(repo, head)
    over = {path: _digest(tree[path]) for path in CARDS.values() if path in tree}
    overwrite = _overwrites(ctx)
    names = {path: name for name, path in CARDS.items()}
    found: dict[str, Kept] = {}
    for path, before, now in _on_branch(hub, repo, head, tree):
        if names[path] not in ctx.input("card").manifest.files:
            continue
        new = (ctx.input("card").path / names[path]).read_text(encoding="utf-8")
        made = keep_edits(before, now, new)
        if made.conflicts and not overwrite:
            shown = "\n".join(
                f"  {item.where}\n" + "\n".join(f"    {line}" for line in item.edit) for item in made.conflicts
            )
            raise ConflictError(
                f"{path} of the branch {branch!r} of {repo} was edited on the Hub where this release writes it anew:"
                f"\n{shown}",
                hint="Bring the edit into the recipe, or on the Hub put it outside of the marked region, then run the "
                "same command again. `hubkit release --overwrite-card` publishes over it.",
            )
        known = validate(new) if made.kept else []
        if made.kept and (problems := [item for item in validate(made.text) if item not in known]):
            if overwrite:
                continue
            raise RefusedError(
                f"{path} of the branch {branch!r} of {repo} is not fit for the Hub as it was edited there: "
                f"{' '.join(problems)}",
                hint="Mend it on the Hub, or publish over it: hubkit release --overwrite-card.",
            )
        if made.kept or made.conflicts:
            found[path] = made
    return found, over


def _overwrites(ctx: Context) -> bool:
    """Whether the command that runs now was given --overwrite-card."""
    begun = [line for line in ctx.run.journal() if line["event"] == "begin"]
    return bool(begun and begun[-1].get("overwrite_card"))


def _digest(entry: Entry) -> str:
    return entry.sha256 or entry.git or ""


def run(ctx: Context) -> Artifact:
    """Upload and verify. RefusedError before any byte when the screening or the repo's visibility says no."""
    hub = connect(ctx.target)
    repo, branch = str(ctx.settings["repo"]), f"{STAGING}/{ctx.variant_name}"
    ctx.report("screening the bundle", 0.05)
    kept, over = _kept(ctx, hub, repo)
    edited = {path: card.text for path, card in kept.items()}
    bundle = build(
        ctx.input("merge"), ctx.input("train"), ctx.input("card"), provenance(ctx), ctx.out / "written", edited
    )
    bundle = _signed(ctx, bundle)
    proposed = bool(ctx.settings.get("pull_request"))
    if not proposed:  # a proposal is for a repo that is there, and preflight has seen who can see it
        hub.ensure_repo(repo, ctx.settings["visibility"])

    def note(point: str, **facts: str) -> None:
        ctx.run.log(point, step=ctx.step, **facts)

    content = f"{counted(len(bundle.files), 'file')}, {size(bundle.manifest.size)}"
    ctx.report(f"uploading {content}", 0.2)
    number: int | None = None
    foreign: list[str] = []
    if proposed:
        proposal = proposals.propose(hub, repo, str(ctx.variant_name), bundle, overwrite=_overwrites(ctx), note=note)
        branch, commit, number = proposal.ref, proposal.commit, proposal.number
        foreign = proposal.ownership.sentences(f"The branch {MAIN!r} of {repo}")
    else:
        commit = stage(hub, repo, branch, bundle, title=f"Release {ctx.variant_name}", note=note)
    ctx.report("verifying what the Hub holds", 0.9)
    verify_listing(hub, repo, commit, bundle.manifest, others_allowed=proposed)
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
            "pull_request": number,
            "over": over,
        },
    )
    write_json(ctx.out / "bundle.json", bundle.to_json())
    return ctx.artifact(
        figure=f"{content} at {short_commit(commit)}" + (f", pull request {number}" if number else ""),
        commit=commit,
        branch=branch,
        warnings=[
            f"{path} of the branch {ctx.variant_name!r} keeps what was edited on the Hub: {', '.join(card.kept)}."
            for path, card in kept.items()
            if card.kept
        ]
        + foreign,
    )


def _signed(ctx: Context, bundle: Bundle) -> Bundle:
    """``bundle`` with the signature that the recipe asks for."""
    signer = signing.signer(ctx.settings.get("sign"), ctx.recipe_folder)
    if signer is None:
        return bundle
    ctx.report("signing", 0.1)
    digests = {path: item.sha256 for path, item in bundle.manifest.files.items()}
    kept, before = ctx.scratch / "model.sig", ctx.run.find(ctx.step)
    for path in (kept, *([before.path / "written" / SIGNATURE_PATH] if before else [])):
        if path.is_file() and signer.made(content := path.read_bytes(), digests):
            break
    else:
        content = signer.sign(ctx.settings["repo"], digests)
    write_atomic(kept, content)
    ctx.run.log("signed", step=ctx.step)
    return bundle.with_signature(content, ctx.out / "written")


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
        **_recipe(ctx),
        **_measured(ctx.input("card"), ctx.variant_name or ""),
    }


_LARGEST_CARD = 2**20
_PARTS = ("seed", "base", "chat", "data", "stages", "evaluate", "gates")
"""Parts of the recipe that shape the weights and the measurements. Not where it is published, and who signs it."""
_PRIVATE = re.compile(r"(hub|trackio)_.*|.*(dir|path|token|key)|report_to|run_name|project|deepspeed")
"""Arguments of a trainer that say where somebody keeps and watches things."""


def _recipe(ctx: Context) -> dict[str, Any]:
    """What of the recipe led to this variant, as plain values, and the digest of that.

    Files that it names stand there by their digests and not by their paths.
    """
    said = {part: ctx.settings[part] for part in _PARTS if part in ctx.settings}
    if "stages" in said:
        chain = ctx.recipe.chain(ctx.variant.stage)
        said["stages"] = {
            name: {**said["stages"][name], "args": _public(said["stages"][name]["args"])} for name in chain
        }
    if "evaluate" in said:
        said["evaluate"] = {key: value for key, value in said["evaluate"].items() if key != "include"}
    files = ctx.settings.get("files", {})
    if "chat.template" in files:
        said["chat"] = {"template": "file"}
    if named := {key: files[key] for key in ("chat.template", "evaluate.include") if key in files}:
        said["files"] = named
    return {"recipe": said, "recipe_digest": digest_of(said)} if said else {}


def _public(args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in args.items()
        if not _PRIVATE.fullmatch(name) and not (isinstance(value, str) and value.startswith(("/", "~", ".")))
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
    """None while the Hub still shows the staged commit as it was verified, and nobody has edited a card since."""
    hub, said = connect(ctx.target), artifact.json("published.json")
    if not hub.repo_exists(said["repo"]):
        return f"{said['repo']} is not there any more"
    tree = hub.tree_if_there(said["repo"], said["commit"])
    if tree is None:
        return f"the staged commit {said['commit'][:12]} is not there any more"
    wanted = tree_of(Manifest.from_json(artifact.json("bundle.json")))
    proposed = bool(ctx.settings.get("pull_request"))
    if not holds_release(tree, wanted) if proposed else compare(wanted, tree):
        return f"the staged commit {said['commit'][:12]} holds other files"
    if proposed:  # what was edited since is for the owner to see who merges
        return None if said["pull_request"] else _no_longer_there(hub, said["repo"], said["branch"], wanted)
    branch = said["branch"].removeprefix(f"{STAGING}/")
    head = hub.head(said["repo"], branch)
    if head is not None and edited_cards(hub.tree(said["repo"], head), tree, said.get("over", {})):
        return f"a card on the branch {branch!r} was edited since it was read"
    return None


def _no_longer_there(hub: Hub, repo: str, branch: str, wanted: Tree) -> str | None:
    """Why a release that its branch held already, so that nothing was proposed, is to be proposed now."""
    head = hub.head(repo, branch)
    if head is not None and holds_release(hub.tree(repo, head), wanted):
        return None
    return f"the branch {branch!r} of {repo} does not hold the release any more"
