"""DSSE envelopes in Sigstore bundles: signed by an EC key in a file, or by the identity of a CI job.

``model_signing`` makes such bundles of model signatures only; a statement of another kind is signed here, by the
libraries below it (cryptography, sigstore), in the same form.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import load_json

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def spelled(payload: bytes, signature: bytes, hint: str) -> bytes:
    """A bundle in its one spelling: no byte of it can change without being noticed. ``hint`` names the public key."""
    value = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(value).encode() + b"\n"


def payload_of(content: bytes) -> bytes:
    """What the bundle ``content`` says, whoever signed it. ValueError when it is none."""
    try:
        envelope = load_json(content)["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("another kind of payload")
        return base64.b64decode(envelope["payload"], validate=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a Sigstore bundle with an in-toto statement") from error


def is_payload(content: bytes, payload: bytes) -> bool:
    """Whether the bundle ``content`` says ``payload``."""
    try:
        return payload_of(content) == payload
    except ValueError:
        return False


def hint_of(content: bytes) -> str | None:
    """The public key that the bundle names; None when it names none."""
    try:
        return str(load_json(content)["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError):
        return None


def sign_by_key(payload: bytes, private: Any) -> bytes:
    """The bundle of ``payload``, signed by the EC key ``private``."""
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.public_key()
    return spelled(payload, private.sign(_pae(payload), ec.ECDSA(_hash(public))), key_hint(public))


def check_by_key(content: bytes, public: Any) -> bytes:
    """What the owner of the EC key ``public`` signed in ``content``. ValueError when they did not."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    payload, hint = payload_of(content), key_hint(public)
    try:
        signature = base64.b64decode(load_json(content)["dsseEnvelope"]["signatures"][0]["sig"], validate=True)
        if spelled(payload, signature, hint) != content:
            raise ValueError("another key, or not in its one spelling")
        public.verify(signature, _pae(payload), ec.ECDSA(_hash(public)))
    except (KeyError, TypeError, IndexError, InvalidSignature) as error:
        raise ValueError("not signed by this key") from error
    return payload


def sign_by_identity(payload: bytes, token: str) -> bytes:
    """The bundle of ``payload``, signed by the identity in ``token`` through Sigstore."""
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.production())
    with context.signer(IdentityToken(token)) as signer:
        return signer.sign_dsse(Statement(payload)).to_json().encode()


def check_by_identity(content: bytes, identity: str, issuer: str | None) -> bytes:
    """What ``identity`` signed in ``content``, as ``issuer`` vouches for it. ValueError when they did not."""
    from sigstore.errors import Error
    from sigstore.models import Bundle
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity

    try:
        bundle = Bundle.from_json(content)
        kind, payload = Verifier.production().verify_dsse(bundle, Identity(identity=identity, issuer=issuer))
    except (Error, ValueError) as error:
        raise ValueError("not signed by this identity") from error
    if kind != PAYLOAD_TYPE:
        raise ValueError("another kind of payload")
    return payload


def key_hint(public: Any) -> str:
    """The sha256 of the public key in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def load_public(path: Path) -> Any:
    """The public key in the PEM file ``path``, which was found to be one."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(path.read_bytes())


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hash(public: Any) -> Any:
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[public.curve.key_size]
