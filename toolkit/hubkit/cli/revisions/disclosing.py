"""Commands that say what a release is made of: bom, disclosure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import hub_option, output_of, output_options
from hubkit.core.errors import UsageError

if TYPE_CHECKING:
    from hubkit.publishing.bill.facts import Facts

_revision = click.argument("revision", default="main")
_into = click.option(
    "-o", "--out", "into", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it to FILE."
)


@click.command()
@click.argument("repo")
@_revision
@_into
@hub_option
@output_options
def bom(repo: str, revision: str, into: Path | None, hub_name: str | None) -> None:
    """Print a release's bill of materials (CycloneDX).

    It is an ML-BOM of CycloneDX 1.6 in JSON: the base model, the datasets with their licenses, the libraries, the
    trainings and the measurements, as the manifest of REPO at REVISION (main if left out) says. What the manifest does
    not say is left out.

    \b
    Examples:
      hubkit revisions bom hubkit/tiny-hermes-dpo dpo-v0
      hubkit revisions bom me/my-model -o bom.cdx.json
    """
    from hubkit.publishing.bill.bill import bill_of, bill_text

    content, commit = _manifest(repo, revision, hub_name)
    try:
        text, plain = bill_text(content, commit, repo), bill_of(content, commit, repo)
    except ImportError as error:
        raise UsageError(
            "The bill of materials needs the `bom` extra.", hint="Install it: pip install 'hubkit[bom]'"
        ) from error
    _give(text, plain, into)


@click.command()
@click.argument("repo")
@_revision
@click.option(
    "--base-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that the base model was trained on, as its provider says. The share of its compute is computed from "
    "this.",
)
@_into
@hub_option
@output_options
def disclosure(repo: str, revision: str, base_tokens: int | None, into: Path | None, hub_name: str | None) -> None:
    """Print a summary of a release's training content.

    It is Markdown after the European Commission's template for general-purpose AI models, filled from the manifest of
    REPO at REVISION (main if left out). Fields that the manifest does not know stay empty, for the provider of the
    model to fill in.

    \b
    Example:
      hubkit revisions disclosure me/my-model --base-tokens 11000000000000
    """
    from hubkit.publishing.bill.compute import operations, share_of_original, tokens
    from hubkit.publishing.bill.facts import Facts
    from hubkit.publishing.bill.training_summary import summary_of

    content, commit = _manifest(repo, revision, hub_name)
    facts: Facts = Facts(content)
    computed = {
        "tokens": tokens(facts),
        "operations": operations(facts),
        "share_of_original": share_of_original(facts, base_tokens),
    }
    text = summary_of(facts, commit, base_tokens)
    _give(text, {"text": text, **computed}, into)


def _manifest(repo: str, revision: str, hub_name: str | None) -> tuple[dict[str, Any], str]:
    """The content of the manifest, and the commit that it was read at."""
    from hubkit.checks.source import RepoSource
    from hubkit.cli.options import repo_id
    from hubkit.cli.targets import find_hub
    from hubkit.publishing.verifying import read_manifest

    source = RepoSource(find_hub(hub_name), repo_id(repo), revision)
    return read_manifest(source)[0], source.commit


def _give(text: str, plain: Any, into: Path | None) -> None:
    """Write ``text`` to ``into``, or print it."""
    from hubkit.core.files import write_atomic

    output = output_of()
    if into:
        write_atomic(into, text)
        output.result({"file": str(into)}, f"Wrote {into}")
    elif output.mode == "json":
        output.result(plain)
    else:
        output.text(text)
