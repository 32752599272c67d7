"""A bundle of GGUF files: the exact file tree of the branch, or of the repo of its own, that has nothing else.

    NAME-F16.gguf  NAME-Q8_0.gguf             the files, as the `gguf` step measured them
    Modelfile  template  params  system       Ollama's, which the Hub reads at the root
    README.md                                 the card of the place
    LICENSE  NOTICE                           as beside the weights
    .gitattributes  .hubkit/...               as on a variant's branch (:mod:`hubkit.publishing.bundle`)

Its manifest names the weights that the files were written from, by their repo and their digests, so that anyone can
write the files again (:mod:`hubkit.publishing.rederiving.gguf_place`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hubkit import __version__
from hubkit.checks.screening import screen
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Digests, Manifest
from hubkit.core.libraries import installed
from hubkit.models.base import PinnedBase
from hubkit.models.gguf.made import FOLDER, GgufFiles
from hubkit.models.gguf.ollama import FILES
from hubkit.models.gguf.write import file_name
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.bundle import LICENSES, Bundle, of_weights, refuse_problems, write_rest
from hubkit.publishing.manifest import GENERATED
from hubkit.publishing.origin import base_facts, data_facts, known
from hubkit.recipe.artifact import ArtifactFolder
from hubkit.recipe.gguf import Gguf
from hubkit.recipe.models import Place
from hubkit.recipe.names import MAIN, model_name
from hubkit.training.data.prepared import PreparedData

CARD = f"{FOLDER}/README.md"
"""The card of the place, by its name in the card's artifact."""
LIBRARIES = ("gguf", "transformers", "tokenizers")
"""Whose version can change a byte of a GGUF file; with hubkit's own."""


def build_gguf(
    gguf: GgufFiles,
    merged: MergedWeights,
    card: ArtifactFolder,
    provenance: Mapping[str, Any],
    into: Path,
    edited: Mapping[str, str] | None = None,
    state: Callable[[bytes], bytes] | None = None,
) -> Bundle:
    """The bundle of ``gguf`` with the card of the place in ``card``; the other arguments as of :func:`bundle.build`.

    ConflictError when the files are not those that were measured, or were written from other weights than ``merged``;
    RefusedError when the card is missing, or the screening finds what must not be published.
    """
    refuse_unmeasured(gguf, merged)
    if CARD not in card.contents.files:
        raise RefusedError(f"The bundle lacks {CARD}.", hint="See the log of the step that writes it.")
    files: dict[str, Path] = {}
    digests: dict[str, Digests] = {}

    def take(artifact: ArtifactFolder, name: str, path: str) -> None:
        files[path] = artifact.folder / name
        digests[path] = artifact.contents.files[name]

    for name in gguf.paths():
        take(gguf, f"{FOLDER}/{name}", name)
    for name in LICENSES:
        if f"model/{name}" in merged.contents.files:
            take(merged, f"model/{name}", name)
    take(card, CARD, "README.md")
    take(card, CARD, f"{GENERATED}/README.md")
    write_rest(files, digests, provenance, into, edited, state)
    refuse_problems(screen(files))
    return Bundle(dict(sorted(files.items())), Manifest(digests))


def paths_of(gguf: Gguf, weights: Place) -> tuple[str, ...]:
    """The files that the recipe's ``gguf`` makes of the variant at ``weights``, before any is written: their names.

    Which of Ollama's files there are depends on the model: all of them are named.
    """
    name = model_name(*weights)
    return (*(file_name(name, kind) for kind in gguf.types), *(FILES if gguf.ollama else ()))


def refuse_unmeasured(gguf: GgufFiles, merged: MergedWeights) -> None:
    """ConflictError when the files are not those that were measured, or were written from other weights."""
    for problem in _problems(gguf, merged):
        raise ConflictError(f"{problem}.", hint="Run `hubkit release --fresh` to write the GGUF files again.")


def _problems(gguf: GgufFiles, merged: MergedWeights) -> Iterator[str]:
    """What of the files is not as the step that measured them says, as sentences without their full stop."""
    for item in gguf.files:
        found = gguf.contents.files.get(f"{FOLDER}/{item.name}")
        if found is None or found.sha256 != item.sha256:
            yield f"{item.name} is not the file that was measured"
    if dict(gguf.source) != {name.removeprefix("model/"): digest for name, digest in merged.model_digests().items()}:
        yield "The GGUF files were written from other weights than those that are published"


def gguf_origin_of(
    *,
    place: Place,
    variant: str,
    weights: Place,
    license_: tuple[str | None, str | None, str | None],
    base: PinnedBase,
    data: PreparedData,
    merged: MergedWeights,
    gguf: GgufFiles,
) -> dict[str, Any]:
    """Where the files at ``place`` come from, for their manifest. It holds no time of day.

    ``weights`` is where the variant's own weights are published; ``license_`` the license, its name and its link.
    The recipe and the trainings are in the manifest of the weights.
    """
    name, title, link = license_
    return {
        "made_by": {"hubkit": __version__, **known(**{item: installed(item) for item in LIBRARIES})},
        "repo": place.repo,
        "variant": variant,
        **({"branch": place.branch} if place.branch != variant else {}),
        **known(license=name, license_name=title, license_link=link),
        "base": base_facts(base),
        "data": data_facts(data),
        "gguf": {**gguf_facts(gguf), "weights": _weights(weights, merged)},
        **_measured(gguf),
    }


def gguf_facts(gguf: GgufFiles) -> dict[str, Any]:
    """What is known of each GGUF file beside its digest."""
    return {
        "architecture": gguf.architecture,
        "files": [
            {
                "name": item.name,
                "type": item.kind,
                "relative_error": item.relative_error,
                **known(stop_rate=item.stop_rate.rate if item.stop_rate else None),
            }
            for item in gguf.files
        ],
        **known(measured_by=f"llama-cpp-python {gguf.llama_cpp}" if gguf.llama_cpp else None),
    }


def _weights(place: Place, merged: MergedWeights) -> dict[str, Any]:
    """The published files that the GGUF files were written from: repo, branch, and the sha256 of each by its path."""
    _, published, _ = of_weights(merged)
    return {
        "repo": place.repo,
        **({"branch": place.branch} if place.branch != MAIN else {}),
        "files": {path: item.sha256 for path, item in sorted(published.items()) if path not in LICENSES},
    }


def _measured(gguf: GgufFiles) -> dict[str, Any]:
    """The stop rates as a variant's manifest has them, by the type of the file."""
    rates = {item.kind: item.stop_rate for item in gguf.files if item.stop_rate}
    if not rates:
        return {}
    forms = {kind: {"stopped": rate.stopped, "prompts": rate.prompts} for kind, rate in rates.items()}
    return {
        "stop_rates": {kind: rate.rate for kind, rate in rates.items()},
        "answers": {**known(max_new_tokens=gguf.max_new_tokens), "forms": forms},
    }
