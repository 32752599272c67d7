"""The provenance of a signed release: an in-toto statement that says what the manifest says, and nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from releases import RECIPE, REPO, Release, hub_of
from signatures import Files, content, key_pair, publish_signed

from hubkit.core.errors import ConflictError
from hubkit.core.files import digests
from hubkit.publishing import dsse, signing
from hubkit.publishing.manifest import MANIFEST_PATH, SIGNATURE_PATH, parse_manifest
from hubkit.publishing.provenance import BUILD_TYPE, PROVENANCE_PATH, statement_of, statement_problem
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running

FILE = {"path": "model.safetensors", "size": 1, "sha256": "a" * 64, "git": "a" * 40}
MANIFEST: dict[str, Any] = {
    "schema": 1,
    "made_by": {"hubkit": "0.1.0", "torch": "2.13.0+cpu"},
    "repo": "me/model",
    "variant": "main",
    "base": {"repo": "them/base", "commit": "b" * 40},
    "data": [
        {"set": "pairs", "repo": "them/pairs", "commit": "d" * 40, "split": "train"},
        {"set": "own", "repo": "rows.jsonl", "commit": "e" * 64, "split": "train", "local": True},
    ],
    "stage": "sft",
    "recipe": {"seed": 0},
    "recipe_digest": "f" * 64,
    "files": [FILE, {**FILE, "path": PROVENANCE_PATH}],
}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path)


def signer(private: Path) -> signing.Signer:
    found = signing.signer(private, keyless=False)
    assert found is not None
    return found


def test_a_statement_is_slsa_provenance() -> None:
    from in_toto_attestation.v1.statement import Statement
    from sigstore.dsse import Statement as SigstoreStatement

    said = json.loads(statement_of(MANIFEST))
    assert said["subject"] == [{"name": "model.safetensors", "digest": {"sha256": "a" * 64}}]
    build = said["predicate"]["buildDefinition"]
    assert build["buildType"] == BUILD_TYPE and build["externalParameters"]["recipe"] == {"seed": 0}
    assert build["resolvedDependencies"] == [
        {"name": "base", "uri": f"hf://them/base@{'b' * 40}", "digest": {"gitCommit": "b" * 40}},
        {"name": "data pairs", "uri": f"hf://datasets/them/pairs@{'d' * 40}", "digest": {"gitCommit": "d" * 40}},
        {"name": "data own: rows.jsonl", "digest": {"sha256": "e" * 64}},
        {"name": "torch", "uri": "pkg:pypi/torch@2.13.0"},
    ]
    Statement.copy_from_pb(_pb(said)).validate()
    SigstoreStatement(statement_of(MANIFEST))
    assert statement_of(dict(reversed(MANIFEST.items()))) == statement_of(MANIFEST)


def _pb(said: dict[str, Any]) -> Any:
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1 import statement_pb2

    return ParseDict(said, statement_pb2.Statement())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base": {"repo": "them/base", "commit": "c" * 40}}, "resolvedDependencies"),
        ({"recipe": {"seed": 1}}, "externalParameters"),
        ({"stage": "dpo"}, "internalParameters"),
        ({"files": [{**FILE, "sha256": "0" * 64}]}, "files"),
        ({"made_by": {"hubkit": "0.2.0", "torch": "2.13.0"}}, "run details"),
    ],
)
def test_another_manifest_has_another_provenance(change: dict[str, Any], problem: str) -> None:
    assert statement_problem(statement_of(MANIFEST), MANIFEST) is None
    found = statement_problem(statement_of(MANIFEST), {**MANIFEST, **change})
    assert found == f"states other {problem} than the manifest"


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"subject": 1}', b"null", b"[" * 50_000])
def test_what_is_no_statement(payload: bytes) -> None:
    assert statement_problem(payload, MANIFEST) == "is not an in-toto statement of SLSA provenance"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_only_the_owner_of_the_key_states_it(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = key_pair(tmp_path, kind=ec.generate_private_key(curve))
    signed = signer(private).state(b"{}")
    assert signing.verifier(public).stated(signed) == b"{}"
    assert signer(private).has_stated(signed, b"{}") and not signer(private).has_stated(signed, b"{ }")
    other = key_pair(tmp_path, "other")
    assert not signer(other[0]).has_stated(signed, b"{}")
    with pytest.raises(ConflictError, match="The provenance is not signed by the key other-public"):
        signing.verifier(other[1]).stated(signed)


def test_not_a_byte_of_it_can_change(keys: tuple[Path, Path]) -> None:
    signed, check = signer(keys[0]).state(b'{"a":1}'), signing.verifier(keys[1])
    for place in range(len(signed)):
        with pytest.raises(ConflictError):
            check.stated(signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :])
    for other in (
        b"",
        signed[:-1],
        signed + b"\n",
        b"[" * 50_000,
        b"{}",
        b"null",
        json.dumps(json.loads(signed)).encode(),
    ):
        with pytest.raises(ConflictError):
            check.stated(other)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"", b"\xff", b'{"mediaType": 1}'])
def test_what_no_identity_signed(content: bytes) -> None:
    """It is told before anybody is asked: by the bytes alone."""
    with pytest.raises(ValueError, match="not signed by this identity"):
        dsse.check_by_identity(content, "me@example.org", "https://issuer.example")


def test_it_is_signed_as_dsse_says(keys: tuple[Path, Path]) -> None:
    """securesystemslib, in-toto's own library, reads the envelope and believes the key."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    bundle = json.loads(signer(keys[0]).state(b"{}"))
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    key = SSlibKey.from_crypto(dsse.load_public(keys[1]))
    named = {"keyid": key.keyid, "sig": signature["sig"]}
    read = Envelope.from_dict({**envelope, "signatures": [named]})
    assert read.verify([key], 1) and base64.b64decode(envelope["payload"]) == b"{}"


def test_a_release_states_its_provenance_once(hub: Running, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    release = Release.on(hub, tmp_path).train()
    publish_signed(release, keys[0], "main")
    files = content(release, "main")
    said, _ = parse_manifest(files[MANIFEST_PATH])
    payload = signing.verifier(keys[1]).stated(files[PROVENANCE_PATH])
    assert payload == statement_of(said)
    names = {item["name"] for item in json.loads(payload)["subject"]}
    assert names == files.keys() - {PROVENANCE_PATH, MANIFEST_PATH, SIGNATURE_PATH}
    commit = hub_of(release).head(REPO, "staging/main")
    publish_signed(release, keys[0], "main")
    assert hub_of(release).head(REPO, "staging/main") == commit, "a step that runs again signs nothing anew"
    publish_signed(release, None, "dpo-v0")
    assert not {PROVENANCE_PATH, SIGNATURE_PATH} & content(release, "dpo-v0").keys() and len(RECIPE.variants) == 2


def test_a_statement_about_another_release_is_refused(hub: Running, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """Signed by the right key, listed by the manifest, and about the other variant."""
    release = Release.on(hub, tmp_path).train()
    publish_signed(release, keys[0])
    files, other = content(release, "main"), content(release, "dpo-v0")
    held = Files(dict(files), tmp_path / "scratch")
    assert not verify(held).differences and verify(held).provenance == "unchecked"
    held.held[PROVENANCE_PATH] = other[PROVENANCE_PATH]
    said = json.loads(files[MANIFEST_PATH])
    (item,) = [item for item in said["files"] if item["path"] == PROVENANCE_PATH]
    (tmp_path / "scratch").write_bytes(other[PROVENANCE_PATH])
    item |= {"size": (found := digests(tmp_path / "scratch")).size, "sha256": found.sha256, "git": found.git}
    held.held[MANIFEST_PATH] = json.dumps(said).encode()
    report = verify(held)
    assert report.provenance == "invalid"
    assert [(item.path, item.message) for item in report.differences] == [
        (
            PROVENANCE_PATH,
            "The provenance states other files, externalParameters, internalParameters than the manifest.",
        )
    ]
