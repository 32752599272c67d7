"""The provenance of a release as an in-toto statement: SLSA's predicate ``provenance/v1``, made from its manifest.

    .hubkit/provenance.sigstore.json    a Sigstore bundle: the statement in a DSSE envelope, signed as ``model.sig`` is

It says which recipe, base commit, data commits and library versions gave which files. A signed release has it; its
manifest lists it, so earlier versions of hubkit verify such a release as they verify any other. Other programs read it:

    cosign verify-blob-attestation --key public.pem --type slsaprovenance1 --bundle provenance.sigstore.json FILE

Sources: in-toto.io/Statement/v1, slsa.dev/provenance/v1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.core.bounded_json import load_json
from hubkit.publishing.bill.facts import Facts, mapping, sequence, text

PROVENANCE_PATH = ".hubkit/provenance.sigstore.json"
"""Where a branch keeps its signed statement."""
BUILD_TYPE = "urn:hubkit:release:1"
"""How the parameters are to be read. What :func:`statement_of` makes of a manifest must stay the same under this name:
`hubkit verify` makes it again and compares it."""
_EXTERNAL = ("repo", "variant", "branch", "recipe", "recipe_digest")
_INTERNAL = ("stage", "merge", "adopted")


def statement_of(content: Mapping[str, Any]) -> bytes:
    """The statement about the release whose manifest has ``content``, as JSON in one spelling.

    The files that it is about are those of the manifest, but the statement itself.
    """
    subjects = [
        {"name": item["path"], "digest": {"sha256": item["sha256"]}}
        for item in sequence(content.get("files"))
        if item["path"] != PROVENANCE_PATH
    ]
    made_by = Facts(content).libraries
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {name: content[name] for name in _EXTERNAL if name in content},
                "internalParameters": {name: content[name] for name in _INTERNAL if name in content},
                "resolvedDependencies": list(_dependencies(content)),
            },
            "runDetails": {
                "builder": {
                    "id": "urn:hubkit:release",
                    **({"version": {"hubkit": made_by["hubkit"]}} if "hubkit" in made_by else {}),
                }
            },
        },
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _dependencies(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The base, the data, the weights of GGUF files and the libraries: SLSA's ``ResourceDescriptor``."""
    base = mapping(content.get("base"))
    if repo := text(base.get("repo")):
        yield _repo("base", f"hf://{repo}", base.get("commit"))
    for source in map(mapping, sequence(content.get("data"))):
        name, repo, commit = (text(source.get(key)) for key in ("set", "repo", "commit"))
        if source.get("local") is True:
            yield {"name": f"data {name}: {repo}", "digest": {"sha256": commit}}
        elif repo:
            yield _repo(f"data {name}", f"hf://datasets/{repo}", commit)
    weights = mapping(mapping(content.get("gguf")).get("weights"))
    for path, digest in sorted(mapping(weights.get("files")).items()):
        if repo := text(weights.get("repo")):
            yield {"name": f"weights {path}", "uri": f"hf://{repo}", "digest": {"sha256": text(digest)}}
    for name, version in sorted(Facts(content).libraries.items()):
        if name != "hubkit":
            yield {"name": name, "uri": f"pkg:pypi/{name}@{version.partition('+')[0]}"}


def _repo(name: str, uri: str, commit: Any) -> dict[str, Any]:
    found = text(commit)
    return (
        {"name": name, "uri": f"{uri}@{found}", "digest": {"gitCommit": found}} if found else {"name": name, "uri": uri}
    )


def statement_problem(payload: bytes, content: Mapping[str, Any]) -> str | None:
    """How the statement ``payload`` disagrees with the manifest, which has ``content``; None when it does not."""
    expected = statement_of(content)
    if payload == expected:
        return None
    try:
        found, wanted = load_json(payload), json.loads(expected)
        parts = {
            "files": (found["subject"], wanted["subject"]),
            "kind": (found["predicateType"], wanted["predicateType"]),
            **{
                name: (found["predicate"]["buildDefinition"].get(name), value)
                for name, value in wanted["predicate"]["buildDefinition"].items()
            },
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return "is not an in-toto statement of SLSA provenance"
    different = [name for name, (one, other) in parts.items() if one != other]
    return f"states other {', '.join(different) or 'run details'} than the manifest"
