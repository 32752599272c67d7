"""The bill of materials of a release as CycloneDX 1.6 (an ML-BOM), made from its manifest.

    hubkit revisions bom REPO [REVISION]    model, base, datasets with licenses, libraries, trainings, measurements

Every value is one of the manifest, or computed from some (``6ND``); what the manifest does not say is left out. It has
no time and no random number: the same manifest gives the same bytes. A manifest of an earlier version gives a shorter
bill. The library (cyclonedx-python-lib) knows no ``modelCard`` and no ``data`` yet; they are added to what it writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from hubkit.core.files import digest_of
from hubkit.publishing.bill.compute import operations
from hubkit.publishing.bill.facts import Base, Dataset, Facts, mapping, sequence, text
from hubkit.publishing.bill.licenses import spdx_id

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

_NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""That of RFC 4122 for addresses."""
_MODEL, _BASE = "model", "base"


def bill_of(content: Mapping[str, Any], commit: str | None = None, repo: str | None = None) -> dict[str, Any]:
    """The bill of materials of the release whose manifest has ``content``; of its ``commit``, where that is known.

    ``repo`` is where the manifest was read; a copy of a release has that of the release.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    facts = Facts(content)
    repo = repo or facts.repo
    model = _model(facts, commit, repo)
    base = [_base(found) for found in [facts.base] if found]
    datasets = _datasets(facts)
    data, libraries = [_data(name, item) for name, item in datasets.items()], [*_libraries(facts)]
    serial = uuid5(_NAMESPACE, f"hubkit:{digest_of(dict(content))}:{commit or ''}")
    bom = Bom(serial_number=serial, metadata=BomMetaData(component=model), components=[*base, *data, *libraries])
    bom.register_dependency(model, [*base, *data, *libraries])
    plain: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    plain["metadata"].pop("timestamp", None)
    for component in plain.get("components", ()):
        if item := datasets.get(component["bom-ref"]):
            component["data"] = [{"type": "dataset", "name": item.set}]
    if card := _card(facts, list(datasets)):
        plain["metadata"]["component"]["modelCard"] = card
    return plain


def bill_text(content: Mapping[str, Any], commit: str | None = None, repo: str | None = None) -> str:
    """:func:`bill_of` as it is written to a file."""
    return json.dumps(bill_of(content, commit, repo), indent=2, ensure_ascii=False) + "\n"


def purl(repo: str, commit: str | None) -> PackageURL:
    """The package URL of a model on the Hugging Face Hub."""
    from packageurl import PackageURL

    namespace, _, name = repo.rpartition("/")
    return PackageURL("huggingface", namespace or None, name, commit.lower() if commit else None)


def _model(facts: Facts, commit: str | None, repo: str | None) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=repo or "unknown",
        version=commit or facts.variant,
        purl=purl(repo, commit) if repo else None,
        bom_ref=_MODEL,
        licenses=_licenses(facts.license),
        components=_files(facts.content),
        properties=list(_properties(facts, repo)),
    )


def _base(base: Base) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=base.repo,
        version=base.commit,
        purl=purl(base.repo, base.commit),
        bom_ref=_BASE,
        licenses=_licenses(base.license),
        properties=[
            Property(name=f"hubkit:{name}", value=str(value))
            for name, value in (("architecture", base.architecture), ("parameters", base.parameters))
            if value is not None
        ],
    )


def _datasets(facts: Facts) -> dict[str, Dataset]:
    """The datasets by their names in the bill, each of its own."""
    found: dict[str, Dataset] = {}
    for item in facts.datasets:
        parts = ("data", item.set, item.repo, *([item.config] if item.config else []), item.split or "")
        name = plain = ":".join(parts)
        number = 1
        while name in found:
            number += 1
            name = f"{plain}:{number}"
        found[name] = item
    return found


def _data(name: str, item: Dataset) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    facts = (("config", item.config), ("split", item.split), ("rows", item.rows))
    sha256 = item.commit if item.local and item.commit and len(item.commit) == 64 else None
    return Component(
        type=ComponentType.DATA,
        name=item.repo,
        version=None if sha256 else item.commit,
        bom_ref=name,
        licenses=_licenses(item.license),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        properties=[Property(name=f"hubkit:{key}", value=str(value)) for key, value in facts if value is not None],
    )


def _libraries(facts: Facts) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    for name, version in sorted(facts.libraries.items()):
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=PackageURL("pypi", None, name, version.partition("+")[0]),
            bom_ref=f"library:{name}",
        )


def _licenses(identifier: str | None) -> list[License]:
    """The license, by its SPDX identifier where it has one, else by the Hub's."""
    from cyclonedx.model.license import DisjunctiveLicense

    if identifier is None:
        return []
    found = spdx_id(identifier)
    return [DisjunctiveLicense(id=found) if found else DisjunctiveLicense(name=identifier)]


def _files(content: Mapping[str, Any]) -> list[Component]:
    """The weights of the release, with their digests."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    found = []
    for item in map(mapping, sequence(content.get("files"))):
        path, sha256 = text(item.get("path")), text(item.get("sha256"))
        if path and sha256 and path.endswith((".safetensors", ".gguf")):
            digest = HashType(alg=HashAlgorithm.SHA_256, content=sha256)
            found.append(Component(type=ComponentType.FILE, name=path, bom_ref=f"file:{path}", hashes=[digest]))
    return found


def _properties(facts: Facts, repo: str | None) -> Iterator[Property]:
    """Facts for which CycloneDX has no field of its own."""
    from cyclonedx.model import Property

    content = facts.content
    named: dict[str, Any] = {
        "released as": facts.repo if facts.repo != repo else None,
        "license_name": facts.content.get("license_name"),
        "license_link": facts.content.get("license_link"),
        "variant": facts.variant,
        "branch": content.get("branch"),
        "stage": content.get("stage"),
        "recipe_digest": content.get("recipe_digest"),
        "seed": mapping(content.get("recipe")).get("seed"),
        **{f"merge:{name}": value for name, value in mapping(content.get("merge")).items()},
        **{
            f"training:{item.stage}:{name}": value
            for item in facts.trainings
            for name, value in item.facts.items()
            if name != "stage"
        },
        "training:operations (6ND)": operations(facts),
    }
    for name, value in named.items():
        if isinstance(value, str | int | float):
            yield Property(name=f"hubkit:{name}", value=str(value).lower() if isinstance(value, bool) else str(value))


def _card(facts: Facts, datasets: list[str]) -> dict[str, Any]:
    """CycloneDX' ``modelCard``: how it was trained, and what was measured."""
    methods = {text(item.facts.get("method")) for item in facts.trainings}
    parameters = {
        **({"approach": {"type": "supervised"}} if methods == {"sft"} else {}),
        **({"modelArchitecture": facts.base.architecture} if facts.base and facts.base.architecture else {}),
        **({"datasets": [{"ref": name} for name in datasets]} if datasets else {}),
    }
    metrics = list(_metrics(facts.content))
    return {
        **({"modelParameters": parameters} if parameters else {}),
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
    }


def _metrics(content: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    answers = mapping(content.get("answers"))
    forms = mapping(answers.get("forms"))
    for form, rate in sorted(mapping(content.get("stop_rates")).items()):
        counted = mapping(forms.get(form))
        of = f"{counted['stopped']} of {counted['prompts']} answers" if {"stopped", "prompts"} <= set(counted) else ""
        limit = f"at most {answers['max_new_tokens']} new tokens" if of and "max_new_tokens" in answers else ""
        slice_ = ", ".join(part for part in (of, limit) if part)
        yield {"type": f"stop rate, {form}", "value": str(rate), **({"slice": slice_} if slice_ else {})}
    if (average := content.get("average")) is not None:
        yield {"type": "benchmarks, average", "value": str(average)}
