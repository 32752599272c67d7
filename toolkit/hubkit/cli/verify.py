"""`hubkit verify`: compare a release, on a Hub or in a folder, with its manifest and its signature."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, place_argument, revision_option
from hubkit.cli.rederived import rederived_lines
from hubkit.cli.sources import open_source
from hubkit.cli.targets import find_hub
from hubkit.core.errors import ConflictError, HubkitError, RefusedError, UsageError
from hubkit.core.numbers import count, counted, short_commit, size
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.publishing.proving import ProvedMerge
    from hubkit.publishing.rederiving.gguf_place import GgufRederived
    from hubkit.publishing.rederiving.weights import Rederived
    from hubkit.publishing.verifying import Report


@click.command()
@place_argument("REPO|FOLDER")
@revision_option
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Require a signature by this public key (PEM)."
)
@click.option("--identity", metavar="ID", help="Require a keyless signature by this identity.")
@click.option("--issuer", metavar="URL", help="Require that this OIDC issuer certified the identity.")
@click.option(
    "--bytes",
    "read_all",
    is_flag=True,
    help="Download and hash every file instead of trusting the digests that the Hub lists.",
)
@click.option(
    "--proof",
    "proves",
    is_flag=True,
    help="Also recompute the merged weights from the base and the adapter, a sample of each tensor. The base is "
    "downloaded if this machine does not have it.",
)
@click.option("--thorough", is_flag=True, help="Like --proof, for every number.")
@click.option(
    "--rederive",
    "rederives",
    is_flag=True,
    help="Also merge the adapter into the base again and compare every bit of the published weights; of GGUF files, "
    "write them again from the weights. The release and what it was made from are downloaded if this machine does not "
    "have them.",
)
@click.option(
    "--strict/--no-strict",
    default=None,
    help="Report files that the manifest does not list as differences. Default with --key or --identity.",
)
@hub_option
@output_options
def verify(
    what: str,
    revision: str,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
    read_all: bool,
    proves: bool,
    thorough: bool,
    rederives: bool,
    strict: bool | None,
    hub_name: str | None,
) -> None:
    """Compare a release with its manifest and its signature.

    Without --bytes the digests that the Hub lists are compared and no large file is downloaded. The exit code is 4 if
    something differs, and 3 if there is no manifest, no signature where one is required, no adapter to merge again, or
    a GGUF file that could not be written again.

    --rederive needs what the release was merged with to give the same bits: both versions are printed. --proof allows
    what a single rounding may differ by.

    \b
    Examples:
      hubkit verify hubkit/tiny-hermes-dpo --revision dpo-v0
      hubkit verify me/my-model --key public.pem --bytes
      hubkit verify ./download --key public.pem
      hubkit verify me/my-model --proof
      hubkit verify me/my-model@dpo-v0 --rederive
      hubkit verify me/my-model@gguf --rederive
    """
    from hubkit.checks.source import RepoSource
    from hubkit.publishing import signing, verifying
    from hubkit.publishing.proving import prove_merge
    from hubkit.publishing.rederiving.any_release import rederive_any

    if (identity is None) != (issuer is None) or (key and identity):
        raise UsageError("Use either --key, or --identity together with --issuer.")
    verifier = signing.verifier(key, identity, issuer) if key or identity else None
    output = output_of()
    source = open_source(what, revision, hub_name, look_up=False)
    report = verifying.verify(source, verifier=verifier, all_bytes=read_all, strict=strict, say=output.say)
    proved = rederived = None
    if (proves or thorough or rederives) and not report.differences:
        hub = source.hub if isinstance(source, RepoSource) else find_hub(hub_name)
        proved = prove_merge(source, hub, thorough=thorough, say=output.say) if proves or thorough else None
        rederived = rederive_any(source, hub, say=output.say) if rederives else None
    found = {
        **report.to_json(),
        **({"proof": asdict(proved)} if proved else {}),
        **({"rederived": rederived.to_json()} if rederived else {}),
    }
    lines = _verify_lines(report, verifier.label if verifier else "", proved)
    output.result(found, *lines, *(rederived_lines(rederived) if rederived else ()))
    if error := _error(report, rederived):
        if output.mode != "json":
            output.error(error)
        sys.exit(error.exit_code)


def _error(report: Report, rederived: Rederived | GgufRederived | None) -> HubkitError | None:
    name, hint = printable(report.name), "Do not use it until its publisher has explained the differences."
    if report.differences:
        many = counted(len(report.differences), "difference")
        return ConflictError(f"{name} differs from its manifest or signature: {many}.", hint=hint)
    if rederived is None or rederived.equal:
        return None
    if not rederived.count:
        from hubkit.core.trees import short_list

        return RefusedError(
            f"{counted(len(rederived.unchecked), 'GGUF file')} of {name} could not be written again:"
            f" {printable(short_list(rederived.unchecked))}.",
            hint="Without --rederive the files are compared with the manifest.",
        )
    if rederived.only_bits and any(item.differs for item in rederived.versions):
        hint = (
            "It was made with other versions than are installed here, which may change a bit: install those of the "
            f"release{rederived.instead}."
        )
    many = counted(rederived.count, "difference")
    return ConflictError(f"{name} is not {rederived.claim}: {many}.", hint=hint)


def _verify_lines(report: Report, signer: str, proved: ProvedMerge | None) -> Iterator[RenderableType]:
    from rich.text import Text

    from hubkit.core.trees import short_list

    at = f" ({short_commit(report.commit)})" if report.commit else ""
    head = f"{printable(report.name)}{at}: {counted(report.files, 'file')}, {size(report.bytes)}"
    if not report.differences:
        how = "every byte read" if report.read else "as listed by the Hub"
        signature = {
            "valid": f"signed by {signer}",
            "unchecked": "signed, signature not checked (pass --key or --identity)",
        }
        stated = ", provenance signed too" if report.provenance == "valid" else ""
        yield f"{head}, all files match the manifest, {how}; {signature.get(report.signature, 'not signed')}{stated}"
    if proved:
        proof = proved.proof
        some = "every number" if proof.thorough else f"{count(proof.numbers)} of {counted(proof.parameters, 'number')}"
        yield (
            f"The merged weights are the adapter on {printable(proved.base)}@{short_commit(proved.commit)}, rounded "
            f"once: {some} recomputed, in {counted(proof.tensors, 'tensor')}"
        )
    for item in report.differences:
        where = "" if item.kind == "signature" else f"{printable(item.path)} "
        yield Text.assemble((f"{item.kind}: ", "red"), where, printable(item.message))
    if report.foreign and not any(item.kind == "extra" for item in report.differences):
        files = printable(short_list(report.foreign))
        yield Text.assemble(("note: ", "dim"), f"files that the manifest does not list: {files}")
