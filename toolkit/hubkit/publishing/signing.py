"""Sign a bundle, and check that a signature covers its files: OpenSSF model signing, the extra ``sign``.

    .hubkit/model.sig     a Sigstore bundle: an in-toto statement of every other file's sha256, and its signature

The digests are known from the merge and from the Hub's listing, so no weight is read for it. The file can be checked
without hubkit, on a downloaded folder:

    model_signing verify key DIR --signature DIR/.hubkit/model.sig --public_key public.pem --no-ignore-git-paths
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hubkit.core.errors import ConflictError, RefusedError, RemoteError, UsageError
from hubkit.core.output import hide
from hubkit.core.printable import printable
from hubkit.core.trees import short_list
from hubkit.publishing import dsse
from hubkit.publishing.manifest import SIGNATURE_PATH

PASSWORD = "HUBKIT_SIGNING_PASSWORD"
"""The environment variable that opens an encrypted private key."""
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
Sha256s = Mapping[str, str]
"""The sha256 (hexadecimal) of files by their path in the repo."""


class Signer(Protocol):
    """Creates the signature of a bundle."""

    def sign(self, name: str, files: Sha256s) -> bytes:
        """The content of a signature file over ``files``; ``name`` is its name for them."""
        ...

    def is_signature_of(self, content: bytes, files: Sha256s) -> bool:
        """Whether ``content``, from our own run folder, is already this signer's signature over ``files``."""
        ...

    def state(self, statement: bytes) -> bytes:
        """``statement`` (:mod:`hubkit.publishing.provenance`), signed: a Sigstore bundle."""
        ...

    def has_stated(self, content: bytes, statement: bytes) -> bool:
        """Whether ``content``, from our own run folder, is already ``statement``, signed by this signer."""
        ...


def signer(key: Path | None, *, keyless: bool) -> Signer | None:
    """The signer that a recipe names: the private key in the file ``key``, or the identity of the CI job.

    None when the recipe asks for no signature. UsageError when the key or the extra ``sign`` is missing or the key
    cannot be used, RefusedError when the job has no identity.
    """
    if key is None and not keyless:
        return None
    _library()
    return _Key.load(key) if key else _Keyless(_identity_token())


def verifier(key: Path | None, identity: str | None = None, issuer: str | None = None) -> Verifier:
    """The signer to expect: the owner of the public key in ``key``, or ``identity`` as ``issuer`` vouches for it.

    UsageError when the key cannot be used or the extra ``sign`` is missing, RemoteError when Sigstore's trust root
    cannot be downloaded.
    """
    config = _library().verifying.Config()
    if key is None:
        try:
            config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
        except Exception as error:
            raise RemoteError(
                f"Cannot download Sigstore's trust root: {type(error).__name__}.",
                hint="Checking a keyless signature needs access to sigstore.dev. Check the network, then try again.",
            ) from error
        return Verifier(config, f"{identity} ({issuer})", identity=identity, issuer=issuer)
    try:
        config.use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise UsageError(f"The public key {key} cannot be read: {error.strerror}.") from error
    except Exception as error:
        raise UsageError(
            f"{key} is not an EC public key (PEM).",
            hint="Create one from the private key: openssl ec -in private.pem -pubout -out public.pem",
        ) from error
    return Verifier(config, f"the key {key.name}", key=dsse.load_public(key))


@dataclass(frozen=True)
class Verifier:
    """Who must have signed. ``label`` names them for people. Made by :func:`verifier`."""

    config: Any = field(repr=False)
    label: str
    key: Any = field(repr=False, default=None)
    identity: str | None = None
    issuer: str | None = None

    def stated(self, content: bytes) -> bytes:
        """The statement that they signed in ``content``; ConflictError when they did not sign it."""
        try:
            if self.key is not None:
                return dsse.check_by_key(content, self.key)
            return dsse.check_by_identity(content, str(self.identity), self.issuer)
        except ValueError as error:
            raise ConflictError(f"The provenance is not signed by {self.label}, or it was altered.") from error

    def check(self, content: bytes, files: Sha256s) -> None:
        """ConflictError unless ``content`` is their signature over exactly ``files``."""
        known = _Known(files)
        self.config.set_hashing_config(known)
        try:
            if self.key is not None and _canonical(content) != content:
                raise ValueError("not in canonical form")
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                path = Path(folder) / "model.sig"
                path.write_bytes(content)
                self.config.verify(Path(folder), path)
        except Exception as error:
            if known.asked:  # the library does so when it has believed the signature
                signed = _subjects(content)
                other = sorted(path for path in signed.keys() | files.keys() if signed.get(path) != files.get(path))
                raise ConflictError(
                    f"The signature by {self.label} covers different files: {printable(short_list(other))}."
                ) from error
            raise ConflictError(f"The signature is not by {self.label}, or it was altered.") from error


@dataclass
class _Known:
    """What the library asks for the digests of a folder; these are known already."""

    files: Sha256s
    name: str = ""
    asked: bool = False

    def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
        """The library's manifest of the files."""
        from model_signing._hashing.hashing import Digest  # the one class of it that has no public name
        from model_signing.manifest import Manifest, SerializationType

        self.asked = True
        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE_PATH]}
        kind = SerializationType.from_args(how)
        items = [kind.new_item(path, Digest("sha256", bytes.fromhex(digest))) for path, digest in self.files.items()]
        return Manifest(self.name, items, kind)

    def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
        """Ignore nothing: the signature file is not among the files."""


@dataclass(frozen=True)
class _Key:
    """A private key in a file, with its password. ``hint`` is the digest of its public half."""

    path: Path
    hint: str
    password: bytes | None = field(repr=False, default=None)
    key: Any = field(repr=False, default=None)

    @classmethod
    def load(cls, path: Path) -> _Key:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

        hide(given := os.environ.get(PASSWORD))
        password = given.encode() if given else None
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password)
        except OSError as error:
            raise UsageError(f"The signing key {path} cannot be read: {error.strerror}.") from error
        except TypeError as error:  # a password is missing, or is given to a key that has none
            raise UsageError(
                f"The signing key {path} is not encrypted, but {PASSWORD} is set."
                if password
                else f"The signing key {path} is encrypted, but {PASSWORD} is not set.",
                hint=f"Unset {PASSWORD}." if password else f"Set {PASSWORD} to its password.",
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(
                f"{path} is not a PEM private key" + (f", or {PASSWORD} is not its password." if password else "."),
                hint="Create one: openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
            ) from error
        if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
            raise UsageError(
                f"The signing key {path} is not an EC key on P-256, P-384 or P-521.",
                hint="Create one: openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
            )
        return cls(path, dsse.key_hint(key.public_key()), password, key)

    def sign(self, name: str, files: Sha256s) -> bytes:
        config = _library().signing.Config()
        # The library asks for a string, but passes it to cryptography, which needs bytes.
        config.use_elliptic_key_signer(private_key=self.path, password=self.password)
        return _canonical(_signed(config, name, files))

    def is_signature_of(self, content: bytes, files: Sha256s) -> bool:
        try:
            hint = json.loads(content)["verificationMaterial"]["publicKey"]["hint"]
            return bool(hint == self.hint) and _subjects(content) == files
        except (ValueError, KeyError, TypeError):
            return False

    def state(self, statement: bytes) -> bytes:
        return dsse.sign_by_key(statement, self.key)

    def has_stated(self, content: bytes, statement: bytes) -> bool:
        return dsse.hint_of(content) == self.hint and dsse.is_payload(content, statement)


@dataclass(frozen=True)
class _Keyless:
    """The identity that a CI job was given, made a short-lived certificate by Sigstore."""

    token: str = field(repr=False)

    def sign(self, name: str, files: Sha256s) -> bytes:
        try:
            return _signed(_library().signing.Config().use_sigstore_signer(identity_token=self.token), name, files)
        except Exception as error:
            raise _sigstore_failed(error) from error

    def is_signature_of(self, content: bytes, files: Sha256s) -> bool:
        try:
            return "certificate" in json.loads(content)["verificationMaterial"] and _subjects(content) == files
        except (ValueError, KeyError, TypeError):
            return False

    def state(self, statement: bytes) -> bytes:
        try:
            return dsse.sign_by_identity(statement, self.token)
        except Exception as error:
            raise _sigstore_failed(error) from error

    def has_stated(self, content: bytes, statement: bytes) -> bool:
        return dsse.hint_of(content) is None and dsse.is_payload(content, statement)


def _sigstore_failed(error: Exception) -> RemoteError:
    return RemoteError(
        f"Signing by Sigstore failed: {type(error).__name__}.",
        hint="Run the same command again; finished steps are kept.",
    )


def _identity_token() -> str:
    from sigstore.oidc import IdentityError, detect_credential

    try:
        token = detect_credential()
    except IdentityError as error:
        raise RefusedError(
            f"This job has no identity to sign with: {printable(str(error)).split(chr(10))[0].rstrip('.')}.",
            hint="On GitHub, give the job `permissions: id-token: write`.",
        ) from error
    if token is None:
        raise RefusedError(
            "There is no identity to sign with: keyless signing needs a CI job with an OIDC identity.",
            hint="Write `sign: {key: FILE}` in the recipe, or run the release in CI.",
        )
    hide(token)
    return token


def _signed(config: Any, name: str, files: Sha256s) -> bytes:
    config.set_hashing_config(_Known(files, name))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.sig"
        config.sign(Path(folder), path)
        return path.read_bytes()


def _subjects(content: bytes) -> dict[str, str]:
    """The files that a signature names. Nothing has been checked yet."""
    statement = json.loads(base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"]))
    return {str(item["name"]): str(item["digest"]) for item in statement["predicate"]["resources"]}


def _canonical(content: bytes) -> bytes:
    """A signature by a key in its canonical form, so that no byte of it can change without being noticed."""
    value = json.loads(content)
    envelope = value["dsseEnvelope"]
    payload, signature = (base64.b64decode(text) for text in (envelope["payload"], envelope["signatures"][0]["sig"]))
    return dsse.spelled(payload, signature, value["verificationMaterial"]["publicKey"]["hint"])


def _library() -> Any:
    """The library, imported on use: it takes half a second. It needs pyOpenSSL, which it does not declare."""
    try:
        import model_signing
    except ImportError as error:
        raise UsageError("Signing needs the `sign` extra.", hint="Install it: pip install 'hubkit[sign]'") from error
    return model_signing
