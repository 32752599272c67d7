"""Signatures: over every file and nothing else, by the key that was named, made once for the same files."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from releases import RECIPE, REPO, Release, assert_whole, faults, heads, hub_of, writes
from samples import RECIPE_TEXT
from signatures import content, key_pair, publish_signed, signed_by

from hubkit.checks.source import RepoSource
from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.keys import artifact_key
from hubkit.publishing import signing, verifying
from hubkit.publishing.manifest import MANIFEST_PATH, SIGNATURE_PATH, Provenance
from hubkit.publishing.provenance import PROVENANCE_PATH
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.server.process import Running
from hubkit_stages import publish

FILES = {"config.json": "1" * 64, ".gitattributes": "2" * 64, "adapter/README.md": "3" * 64, MANIFEST_PATH: "4" * 64}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path)


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


def signer(private: Path) -> signing.Signer:
    found = signing.signer(private, keyless=False)
    assert found is not None
    return found


# --- the key


def test_a_signature_holds_for_its_files_and_its_key(keys: tuple[Path, Path], tmp_path: Path) -> None:
    made = signer(keys[0]).sign("me/model", FILES)
    check = signing.verifier(keys[1])
    check.check(made, FILES)
    check.check(made, dict(reversed(FILES.items())))
    for other in (
        {**FILES, "config.json": "5" * 64},
        {**FILES, "more": "5" * 64},
        {path: digest for path, digest in FILES.items() if path != ".gitattributes"},
        {path.replace("config", "conf"): digest for path, digest in FILES.items()},
    ):
        with pytest.raises(ConflictError, match="covers different files"):
            check.check(made, other)
    with pytest.raises(ConflictError, match="is not by the key other-public"):
        signing.verifier(key_pair(tmp_path, "other")[1]).check(made, FILES)


def test_which_files_a_signature_was_made_for_is_told(keys: tuple[Path, Path]) -> None:
    made = signer(keys[0]).sign("me/model", FILES)
    with pytest.raises(ConflictError, match=r"different files: config\.json, more\.$"):
        signing.verifier(keys[1]).check(made, {**FILES, "config.json": "5" * 64, "more": "6" * 64})


def test_not_a_byte_of_a_signature_can_change(keys: tuple[Path, Path]) -> None:
    made, check = signer(keys[0]).sign("me/model", FILES), signing.verifier(keys[1])
    for place in range(len(made)):
        with pytest.raises(ConflictError):
            check.check(made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :], FILES)
    for other in (b"", made + b"\n", made[:-1], b"[" * 100_000, b"{}", b"null", json.dumps(json.loads(made)).encode()):
        with pytest.raises(ConflictError, match="is not by"):
            check.check(other, FILES)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_curves_that_can_be_used(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = key_pair(tmp_path, kind=ec.generate_private_key(curve))
    signing.verifier(public).check(signer(private).sign("me/model", FILES), FILES)


def test_a_key_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair(tmp_path, password="open sesame")
    with pytest.raises(UsageError, match="is encrypted, but HUBKIT_SIGNING_PASSWORD is not set") as told:
        signer(private)
    monkeypatch.setenv("HUBKIT_SIGNING_PASSWORD", "open barley")
    with pytest.raises(UsageError, match="is not its password") as wrong:
        signer(private)
    assert "barley" not in str(told.value) + str(wrong.value)
    monkeypatch.setenv("HUBKIT_SIGNING_PASSWORD", "open sesame")
    signing.verifier(public).check(signer(private).sign("me/model", FILES), FILES)
    with pytest.raises(UsageError, match="is not encrypted, but HUBKIT_SIGNING_PASSWORD is set"):
        signer(key_pair(tmp_path, "plain")[0])


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    kinds = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "edwards": ed25519.Ed25519PrivateKey.generate(),
        "bitcoin": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, kind in kinds.items():
        private, public = key_pair(tmp_path, name, kind=kind)
        with pytest.raises(UsageError, match="is not an EC key on P-256"):
            signer(private)
        with pytest.raises(UsageError, match="is not an EC public key"):
            signing.verifier(public)
    private, public = key_pair(tmp_path)
    with pytest.raises(UsageError, match="is not a PEM private key"):
        signer(public)
    with pytest.raises(UsageError, match="is not an EC public key"):
        signing.verifier(private)
    with pytest.raises(UsageError, match=r"gone\.pem cannot be read: No such file"):
        signer(tmp_path / "gone.pem")
    with pytest.raises(UsageError, match=r"gone\.pem cannot be read: No such file"):
        signing.verifier(tmp_path / "gone.pem")


def test_without_the_extra(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library needs pyOpenSSL and does not declare it; without either the sentence is the same."""
    for missing in ("model_signing", "OpenSSL"):
        for name in [name for name in sys.modules if name.split(".")[0] in {"model_signing", "OpenSSL"}]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(UsageError, match="needs the `sign` extra") as told:
            signer(keys[0])
        assert told.value.exit_code == 2 and "pip install 'hubkit[sign]'" in str(told.value)
        monkeypatch.undo()


def test_keyless_needs_an_identity_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for name in ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RefusedError, match="has no identity to sign with") as told:
        signing.signer(None, keyless=True)
    assert told.value.exit_code == 3 and "id-token: write" in str(told.value)


def test_a_keyless_signature_of_the_same_files_is_used_again() -> None:
    statement = {"predicate": {"resources": [{"name": name, "digest": digest} for name, digest in FILES.items()]}}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    made = json.dumps({"verificationMaterial": {"certificate": {}}, "dsseEnvelope": {"payload": payload}}).encode()
    keyless = signing._Keyless("token")
    assert keyless.is_signature_of(made, FILES) and not keyless.is_signature_of(made, {**FILES, "more": "5" * 64})
    assert not keyless.is_signature_of(b"", FILES)
    assert not keyless.is_signature_of(made.replace(b"certificate", b"publicKey"), FILES)
    assert "token" not in repr(keyless)


def test_other_programs_can_check_it(release: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The library's own check of a downloaded folder, as its command line makes it."""
    from model_signing import hashing
    from model_signing import verifying as theirs

    publish_signed(release, keys[0], "main")
    folder = tmp_path / "download"
    for path, body in content(release, "main").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)

    def check() -> None:
        how = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
        config = theirs.Config().use_elliptic_key_verifier(public_key=keys[1]).set_hashing_config(how)
        config.verify(folder, folder / SIGNATURE_PATH)

    check()
    (folder / ".gitattributes").write_text("changed")
    with pytest.raises(ValueError, match="Signature mismatch"):
        check()


# --- the recipe


def test_the_recipe_names_one_way_to_sign() -> None:
    assert parse_recipe(RECIPE_TEXT).sign is None
    assert parse_recipe(RECIPE_TEXT + "sign: {key: my.pem}\n").sign.key == "my.pem"  # type: ignore[union-attr]
    assert parse_recipe(RECIPE_TEXT + "sign: {keyless: true}\n").sign.keyless  # type: ignore[union-attr]
    for wrong in ("{}", "{keyless: true, key: my.pem}", "{keyless: false}"):
        with pytest.raises(UsageError, match="write either `key: FILE` or `keyless: true`"):
            parse_recipe(RECIPE_TEXT + f"sign: {wrong}\n")


def test_another_key_is_another_bundle_and_no_key_is_a_third(release: Release, tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path)
    stage = find_stage("publish")

    def key(signer: Path | None = private) -> str:
        return artifact_key(stage, release.context("publish[main]", signed_by(signer)).settings, {})

    first = key()
    assert key() == first and key(None) != first
    key_pair(tmp_path)
    assert key() != first, "the file holds another key"


def test_a_key_that_cannot_be_used_is_found_before_anything_runs(release: Release, tmp_path: Path) -> None:
    ctx = release.context("publish[main]", signed_by(tmp_path / "gone.pem"))
    (finding,) = publish.check(ctx)
    assert finding.level == "error" and finding.exit_code == 2 and "gone.pem cannot be read" in finding.message


def test_the_command_line_and_the_environment_name_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubkit.cli.release import release as command
    from hubkit.pipeline import runner

    asked: list[str | None] = []

    def run(recipe: Recipe, *_: object, **__: object) -> None:
        asked.append(recipe.sign.key if recipe.sign else None)
        raise RefusedError("enough")

    monkeypatch.setattr(runner, "release", run)
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("hubkit.yaml").write_text(RECIPE_TEXT)
    line = ["--hub", "http://127.0.0.1:9"]
    for options, variables in (([], {}), ([], {"HUBKIT_SIGNING_KEY": "a.pem"}), (["--sign-key", "b.pem"], {})):
        CliRunner().invoke(command, [*line, *options], env=variables)
    assert asked == [None, str(tmp_path / "a.pem"), str(tmp_path / "b.pem")]


# --- the release


def test_a_signed_release(hub: Running, release: Release, keys: tuple[Path, Path]) -> None:
    publish_signed(release, keys[0]).promote()
    connected, check = hub_of(release), signing.verifier(keys[1])
    for name in RECIPE.variants:
        assert_whole(release, name)
        report = verifying.verify(RepoSource(connected, REPO, name), verifier=check)
        assert report.signature == "valid" and not report.differences and not report.foreign
    first = heads(release)
    assert release.outdated("promote") is None
    assert release.outdated("publish[main]") is None, "a finished release has nothing to do"
    publish_signed(release, keys[0]).promote()
    assert heads(release) == first, "the same files were signed once: no branch moves"
    secret = keys[0].read_text().split("\n")[1].encode()
    held = [path for path in release.run.path.rglob("*") if path.is_file() and secret in path.read_bytes()]
    held += [path for path in hub.data.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert not held, "the private key is in no file of the run and of the Hub"


def test_a_step_that_runs_again_makes_no_second_commit(
    hub: Running, release: Release, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was killed after the commit, or its staged commit was swept away: the signature is the same."""
    real = publish.verify_listing

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "verify_listing", killed)
    with pytest.raises(KeyboardInterrupt):
        publish_signed(release, keys[0], "main")
    before = heads(release)
    monkeypatch.setattr(publish, "verify_listing", real)
    faults(hub)
    publish_signed(release, keys[0], "main")
    assert writes(hub) == [] and heads(release) == before
    made = content(release, "main")[SIGNATURE_PATH]
    release.run.begin("publish[main]", "another key of the artifact")
    publish_signed(release, keys[0], "main")
    assert content(release, "main")[SIGNATURE_PATH] == made and heads(release) == before


def test_another_key_or_other_files_are_signed_anew(release: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    publish_signed(release, keys[0], "main")
    first = content(release, "main")[SIGNATURE_PATH]
    other = key_pair(tmp_path, "other")
    publish_signed(release, other[0], "main")
    second = content(release, "main")[SIGNATURE_PATH]
    release.train(2)
    publish_signed(release, other[0], "main")
    third = content(release, "main")[SIGNATURE_PATH]
    assert len({first, second, third}) == 3
    report = verifying.verify(RepoSource(hub_of(release), REPO, "staging/main"), verifier=signing.verifier(other[1]))
    assert report.signature == "valid"


def test_the_next_release_without_a_key_takes_the_signature_away(release: Release, keys: tuple[Path, Path]) -> None:
    publish_signed(release, keys[0]).promote()
    assert SIGNATURE_PATH in hub_of(release).tree(REPO, "main")
    release.train(2)
    moved = publish_signed(release, None).promote()
    assert moved["main"]["removed"] == [SIGNATURE_PATH, PROVENANCE_PATH] and not moved["main"]["foreign"]


# --- what the manifest tells


def test_the_manifest_tells_where_it_came_from(release: Release, tmp_path: Path) -> None:
    text = RECIPE_TEXT.replace("max_length: 40", "max_length: 40, report_to: wandb, logging_dir: /home/me/logs")
    recipe = parse_recipe(text.replace("suites: [tiny_facts]", "suites: [tiny_facts], include: tasks"))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.yaml").write_text("task: a")

    def said(name: str, key: Path | None) -> dict[str, object]:
        release.recipe = recipe.signed_with(key) if key else recipe
        return publish.provenance(release.context(f"publish[{name}]"))

    main, first = said("main", None), said("dpo-v0", None)
    made = main["recipe"]
    assert isinstance(made, dict)
    assert list(made) == ["seed", "base", "chat", "data", "stages", "evaluate", "gates", "files"]
    assert list(made["stages"]) == ["dpo", "sft"] and made["stages"]["dpo"]["args"] == {
        "learning_rate": 5e-5,
        "max_length": 40,
        "bf16": True,
    }
    assert list(first["recipe"]["stages"]) == ["dpo"]  # type: ignore[index]
    assert made["files"].keys() == {"evaluate.include"} and "include" not in made["evaluate"]
    assert main["recipe_digest"] != first["recipe_digest"]
    known = {"license": "apache-2.0", "architecture": "MistralForCausalLM", "parameters": 1000}
    assert main["base"] == {"repo": "them/base", "commit": "b" * 40, **known} and main["license"] == "apache-2.0"
    assert main["made_by"].keys() == {"hubkit", "trl"}  # type: ignore[attr-defined]
    private, _ = key_pair(tmp_path)
    assert said("main", private) == main, "who signs is told by the signature alone"
    for secret in ("/home/me", "wandb", "private"):
        assert secret not in json.dumps(main)


def test_a_manifest_of_ours_is_read_whole(release: Release, keys: tuple[Path, Path]) -> None:
    publish_signed(release, keys[0], "main")
    raw = content(release, "main")[MANIFEST_PATH]
    said, manifest = verifying.parse_manifest(raw)
    parsed = Provenance.parse(raw)
    assert parsed is not None and parsed.paths == {*manifest.files, MANIFEST_PATH, SIGNATURE_PATH}
    assert said["schema"] == 1 and said["recipe"]["seed"] == 0 and not {"date", "time"} & said.keys()
