"""`hubkit reproduce`: run the recipe of a release again and compare what comes out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import ask, confirm_option, hub_option, output_of, output_options, repo_id
from hubkit.cli.targets import find_target
from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import counted, duration, short_commit, size
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.checks.source import RepoSource
    from hubkit.hub.client import Hub
    from hubkit.pipeline.reproducing import Reproduced
    from hubkit.publishing.signing import Verifier
    from hubkit.publishing.verifying import Report
    from hubkit.recipe.models import Recipe, Source


@click.command()
@click.argument("release", metavar="REPO[@REVISION]")
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Take data files that the recipe named from FOLDER. The manifest has only their digests.",
)
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Require a signature by this public key (PEM)."
)
@click.option("--identity", metavar="ID", help="Require a keyless signature by this identity.")
@click.option("--issuer", metavar="URL", help="Require that this OIDC issuer certified the identity.")
@click.option("--seed", type=int, metavar="N", help="Train with this seed instead of the release's.")
@click.option(
    "-o",
    "--out",
    "into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the run in FOLDER. Default: a folder in HUBKIT_HOME/reproduced.",
)
@confirm_option
@hub_option
@output_options
def reproduce(
    release: str,
    files: Path | None,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
    seed: int | None,
    into: Path | None,
    yes: bool,
    hub_name: str | None,
) -> None:
    """Train and merge a release again, and compare.

    The release is verified first, as `hubkit verify` does. The recipe, the seed and the commits of base and data are
    those of its manifest. It may be a stranger's: what would be downloaded and trained is shown, and you are asked for
    confirmation. Trackers, paths and stages other than dpo and sft are not taken from it, and the training has no
    token. Nothing is published.

    The adapter, the merged weights and the files beside them are compared by their digests; cards and measurements are
    not made. If something differs, what was not as in the release is listed: versions, data, seed, device. Run the
    same command again to resume an interrupted run.

    The exit code is 0 if everything is equal, 4 if something differs, and 3 if the manifest is not enough to train.

    \b
    Example:
      hubkit reproduce hubkit/tiny-hermes-dpo@dpo-v0
    """
    from hubkit.checks.source import RepoSource
    from hubkit.hub.client import connect
    from hubkit.pipeline.reproducing import refuse_unpublished_sources
    from hubkit.pipeline.reproducing import reproduce as run_again
    from hubkit.publishing import signing
    from hubkit.publishing.rederiving import recipe as recipes
    from hubkit.publishing.verifying import read_manifest

    if (identity is None) != (issuer is None) or (key and identity):
        raise UsageError("Use either --key, or --identity together with --issuer.")
    verifier = signing.verifier(key, identity, issuer) if key or identity else None
    name, _, revision = release.partition("@")
    hub, output = connect(find_target(hub_name)), output_of()
    source = RepoSource(hub, repo_id(name), revision or "main")
    foreign = _verified(source, verifier).foreign
    content, manifest = read_manifest(source)
    work = (
        into or hubkit_home() / "reproduced" / f"{name.replace('/', '--')}-{short_commit(source.commit)}"
    ).absolute()
    template = source.read(recipes.TEMPLATE) if recipes.TEMPLATE in source.files() else None
    recipe = recipes.recipe_of(content, template, work)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    recipes.refuse_other_files(recipe, content, files)
    refuse_unpublished_sources(recipe, hub)
    _agreed(source, recipe, content, hub, yes)
    recipes.write_template(recipe, template)
    found = run_again(
        recipe, content, manifest.files, hub=hub, folder=files or work, home=work, output=output, foreign=foreign
    )
    output.result({"repo": name, "commit": source.commit, **found.to_json()}, *_lines(found))
    if not found.is_equal:
        count = len(found.different) + len(found.missing) + len(found.extra)
        error = ConflictError(
            f"{printable(source.name)} was not reproduced. Different: {counted(count, 'file')}.",
            hint="See what was not as in the release. Training on a GPU may differ from run to run.",
        )
        if output.mode != "json":
            output.error(error)
        sys.exit(ConflictError.exit_code)


def _verified(source: RepoSource, verifier: Verifier | None) -> Report:
    """The outcome of `hubkit verify`. ConflictError when something differs."""
    from hubkit.publishing.verifying import verify

    report = verify(source, verifier=verifier, say=output_of().say)
    if report.differences:
        first = report.differences[0]
        where = "" if first.kind == "signature" else f"{first.path} "
        raise ConflictError(
            f"{printable(source.name)} differs from its manifest or signature: {printable(where + first.message)}.",
            hint=f"Nothing was trained. `hubkit verify {printable(source.name)}` lists all differences.",
        )
    return report


def _agreed(source: RepoSource, recipe: Recipe, content: Mapping[str, Any], hub: Hub, yes: bool) -> None:
    """Show what would be downloaded and trained, and ask."""
    output = output_of()
    output.say(f"The manifest of {printable(source.name)} says what would be downloaded and trained:")
    for line in _plan(recipe, content, hub):
        output.say(printable(f"  {line}"))
    ask("Download and train this?", yes=yes)


def _plan(recipe: Recipe, content: Mapping[str, Any], hub: Hub) -> Iterator[str]:
    from hubkit.publishing.bill.facts import Facts

    base = recipe.base
    weights = sum(entry.size for entry in hub.tree(base.repo, base.revision).values())
    yield f"base   {base.repo}@{short_commit(base.revision)}, {size(weights)}"
    for name, sources in recipe.data.items():
        yield from (f"data   {name}: {_source(source)}" for source in sources)
    measured = {item.stage: item for item in Facts(content).trainings}
    for name, stage in recipe.stages.items():
        args = ", ".join(f"{key}: {value}" for key, value in stage.args.items() if key != "report_to")
        processes = f", {counted(stage.launch.processes, 'process')}" if stage.launch and stage.launch.processes else ""
        then = measured.get(name)
        seconds, device = (then.number("seconds"), then.facts.get("device")) if then else (None, None)
        took = f"; it took {duration(seconds)} on {device}" if seconds is not None and device else ""
        yield f"train  {name}: {stage.uses or name} on {stage.data}{processes}{took}"
        yield f"         {args or 'no arguments'}"


def _source(source: Source) -> str:
    rows = f", {counted(source.rows, 'row')}" if source.rows else ""
    return f"{source.name}@{short_commit(source.revision)}{rows}" if source.repo else f"{source.name}{rows}"


def _lines(found: Reproduced) -> Iterator[RenderableType]:
    from rich.text import Text

    from hubkit.core.trees import short_list

    for kind, paths in (("equal", found.equal), ("different", found.different), ("missing", found.missing)):
        for path in paths:
            yield Text.assemble((f"{kind:<9} ", "green" if kind == "equal" else "red"), printable(path))
    for path in found.extra:
        yield Text.assemble(("extra     ", "red"), printable(path))
    if found.not_compared:
        yield Text.assemble(("not compared: ", "dim"), printable(short_list(found.not_compared)))
    if found.causes:
        yield "\nNot as in the release:"
        for cause in found.causes:
            yield printable(f"  {cause.kind}: {cause.name}: {cause.then} in the release, {cause.now} here")
    else:
        yield "\nVersions, data, seed and device are those of the release, as far as its manifest says."
    yield f"Made again in {printable(str(found.run))}"
