"""`hubkit verify`: is a release, on a Hub or in a folder, what its manifest and its signature promise?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from hubkit.cli.common import find_target, hub_option, output_of, speaks
from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.output import megabytes, printable
from hubkit.core.trees import short_list
from hubkit.hub.client import connect
from hubkit.publishing import signing
from hubkit.publishing.verifying import FolderSource, Report, RepoSource
from hubkit.publishing.verifying import verify as hold


@click.command()
@click.argument("what", metavar="REPO|FOLDER")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of a repo.")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The public key that must have signed it.")
@click.option("--identity", metavar="ID", help="Who must have signed it, keyless.")
@click.option("--issuer", metavar="URL", help="Who vouches for that identity.")
@click.option(
    "--bytes", "whole", is_flag=True, help="Read and hash every byte, instead of believing the Hub's listing."
)
@click.option(
    "--strict/--no-strict", default=None, help="Whether files that the manifest does not know count (with a key: yes)."
)
@hub_option
@speaks
def verify(
    what: str,
    revision: str,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
    whole: bool,
    strict: bool | None,
    hub_name: str | None,
) -> None:
    """Hold a release against its manifest, and against its signature, and say exactly what differs.

    The Hub's listing is compared; nothing large is read without --bytes. Exit code 4 when something differs, 3 when
    there is no manifest, or no signature where one is asked for.

    \b
    hubkit verify hubkit/tiny-hermes-dpo --revision dpo-v0
    hubkit verify me/my-model --key public.pem --bytes
    hubkit verify ./download --key public.pem
    """
    if (identity is None) != (issuer is None) or (key and identity):
        raise UsageError(
            "Say who must have signed it in one way.",
            hint="Give --key FILE, or --identity ID together with --issuer URL.",
        )
    verifier = signing.verifier(key, identity, issuer) if key or identity else None
    output = output_of()
    report = hold(_source(what, revision, hub_name), verifier=verifier, whole=whole, strict=strict, say=output.say)
    output.result(report.to_json(), *_shown(report, verifier.label if verifier else ""))
    if report.differences:
        if output.mode != "json":
            output.error(_error(report))
        sys.exit(ConflictError.exit_code)


def _source(what: str, revision: str, hub_name: str | None) -> FolderSource | RepoSource:
    if Path(what).is_dir() or what.startswith((".", "/", "~")):
        return FolderSource(Path(what))
    return RepoSource(connect(find_target(hub_name)), what, revision)


def _error(report: Report) -> ConflictError:
    count = "one difference" if len(report.differences) == 1 else f"{len(report.differences):,} differences"
    return ConflictError(
        f"{printable(report.name)} is not what it promises to be: {count}.",
        hint="Do not use it before its makers have said why.",
    )


def _shown(report: Report, who: str) -> list[RenderableType]:
    at = f" ({report.commit[:12]})" if report.commit else ""
    head = f"{printable(report.name)}{at}: {report.files} files, {megabytes(report.bytes)}"
    shown: list[RenderableType] = []
    if not report.differences:
        how = "every byte read" if report.read else "as the Hub lists them"
        signed = {"valid": f"signed by {who}", "unchecked": "signed, not checked (give --key)"}.get(report.signature)
        shown.append(Text(f"{head}, all as promised, {how}" + (f"; {signed}" if signed else "; not signed")))
    for item in report.differences:
        where = "" if item.kind == "signature" else f"{printable(item.path)} "
        shown.append(Text.assemble((f"{item.kind}: ", "red"), where, printable(item.message)))
    if report.foreign and not any(item.kind == "extra" for item in report.differences):
        shown.append(
            Text.assemble(("note: ", "dim"), f"files that no manifest knows: {printable(short_list(report.foreign))}")
        )
    return shown
