"""A bundle: the exact file tree of one variant, ready for a branch.

It is built by an allow-list from the artifacts of the stages, so that no checkpoint, optimizer state or log gets in,
and then screened. The digests come from the artifacts' manifests: large files are not read again.

    config.json  tokenizer.json  chat_template.jinja  model.safetensors ...   merged weights, at the root
    adapter/adapter_config.json  adapter/adapter_model.safetensors  adapter/README.md    where there is an adapter
    README.md  assets/*.png                                                   the variant's card and its pictures
    gguf/*.gguf ...                                                           GGUF files, with `place: folder`
    .eval_results/*.yaml                                                      results for the Hub's leaderboards
    .gitattributes                                                            the files in LFS
    .hubkit/manifest.json                                                     provenance, and every other file's digests
    .hubkit/cards/*.md                                                        the cards before any edit on the Hub
    .hubkit/reported.json                                                     results of runs elsewhere, as reported
    .hubkit/benchmarks.json.gz                                                the score of every benchmark question
    .hubkit/provenance.sigstore.json                                          the signed provenance,
    .hubkit/model.sig                                                         and the signature, if the recipe asks for
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hubkit.checks.screening import screen
from hubkit.core.errors import RefusedError
from hubkit.core.files import Digests, Manifest, digests, write_atomic
from hubkit.core.findings import Finding
from hubkit.evals.published import PUBLISHED_SCORES
from hubkit.evals.reported import REPORTED_FILE
from hubkit.models.gguf.made import FOLDER, GgufFiles
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.manifest import CARDS, GENERATED, MANIFEST_PATH, SCHEMA, SIGNATURE_PATH
from hubkit.publishing.provenance import PROVENANCE_PATH, statement_of
from hubkit.recipe.artifact import ArtifactFolder
from hubkit.training.adapter import Form, TrainedAdapter

CARD_FILES = ("assets/*.png", ".eval_results/*.yaml", PUBLISHED_SCORES, REPORTED_FILE)
"""What else may be published of a card's artifact, as patterns."""
ROOT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "LICENSE",
    "NOTICE",
)
"""What may be published of a merge's ``model/`` folder, as patterns."""
LICENSES = ("LICENSE", "NOTICE")
"""Those of them that no program loads."""
WEIGHT_FILES = tuple(pattern for pattern in ROOT_FILES if pattern not in LICENSES)
"""The others: what other files, such as GGUF, are written from."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "LICENSE", "NOTICE")
"""What may be published of a training's ``adapter/`` folder."""
NEEDED: Mapping[Form, tuple[str, ...]] = {
    "adapter": (
        "config.json", "tokenizer_config.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
    ),
    "weights": ("config.json", "tokenizer_config.json"),
}  # fmt: skip
"""Files that a bundle must have, by what its training left."""

# fmt: off
_LFS_GLOBS = (
    "*.7z", "*.arrow", "*.bin", "*.ckpt", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.model", "*.msgpack", "*.npy",
    "*.npz", "*.onnx", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.png", "*.pt", "*.pth", "*.safetensors", "*.tar",
    "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst", "*tfevents*",
)
# fmt: on
_LFS_SIZE = 10 * 2**20
"""Bytes above which the Hub wants any file in LFS; those that no glob matches get a line of their own."""


@dataclass(frozen=True)
class Bundle:
    """The files of one variant: path in the repo -> local file, and their digests.

    ``left_out`` are files of the artifacts that are not on the allow-list.
    """

    files: Mapping[str, Path]
    manifest: Manifest
    left_out: tuple[str, ...] = ()

    def with_signature(self, content: bytes, into: Path) -> Bundle:
        """This bundle and its signature, which is written to ``into``."""
        local = into / SIGNATURE_PATH
        write_atomic(local, content)
        files, known = {**self.files, SIGNATURE_PATH: local}, {**self.manifest.files, SIGNATURE_PATH: digests(local)}
        return Bundle(dict(sorted(files.items())), Manifest(known), self.left_out)

    def in_lfs(self, path: str) -> bool | None:
        """Whether the branch keeps ``path`` in LFS; None when the Hub decides: the file is binary, and not named.

        A bundle with a ``.gitattributes`` decides by it.
        """
        size = self.manifest.files[path].size
        if ".gitattributes" in self.files and (size > _LFS_SIZE or any(_matches(path, glob) for glob in _LFS_GLOBS)):
            return True
        return False if size <= _LFS_SIZE and _is_text(self.files[path]) else None

    def to_json(self) -> dict[str, Any]:
        """``{"files": [{"path", "size", "sha256", "git"}], "left_out"}``."""
        return {**self.manifest.to_json(), "left_out": list(self.left_out)}


def build(
    merged: MergedWeights,
    adapter: TrainedAdapter,
    card: ArtifactFolder,
    provenance: Mapping[str, Any],
    into: Path,
    edited: Mapping[str, str] | None = None,
    state: Callable[[bytes], bytes] | None = None,
    gguf: GgufFiles | None = None,
) -> Bundle:
    """The bundle of the variant with these artifacts; the files that are written for it go to ``into``.

    ``edited`` are cards (by their paths on the branch) with the edits made there. ``provenance`` is copied into the
    manifest unchanged, and holds no time: the same inputs give the same bytes. ``state`` signs the statement of the
    provenance. ``gguf`` are files that are published in ``gguf/`` beside the weights. Raises RefusedError when
    something needed is missing, or when the screening finds what must not be published.
    """
    files, known, left_out = of_models(merged, adapter)

    def take(artifact: ArtifactFolder, name: str, path: str) -> None:
        files[path] = artifact.folder / name
        known[path] = artifact.contents.files[name]

    for name, path in CARDS.items():
        if name in card.contents.files:
            take(card, name, path)
            take(card, name, f"{GENERATED}/{name}")
    for name in card.contents.files:
        if any(fnmatchcase(name, pattern) for pattern in CARD_FILES):
            take(card, name, name)
    if gguf:
        for name in gguf.paths():
            take(gguf, f"{FOLDER}/{name}", f"{FOLDER}/{name}")
    _refuse_missing(files, adapter.form)
    write_rest(files, known, provenance, into, edited, state)
    refuse_unfit(files, known, merged)
    return Bundle(dict(sorted(files.items())), Manifest(known), tuple(sorted(left_out)))


def write_rest(
    files: dict[str, Path],
    known: dict[str, Digests],
    provenance: Mapping[str, Any],
    into: Path,
    edited: Mapping[str, str] | None,
    state: Callable[[bytes], bytes] | None,
) -> None:
    """Write what every bundle has beside the files of artifacts, and add it to ``files`` and ``known``.

    These are the ``edited`` cards, ``.gitattributes``, the statement of the provenance that ``state`` signs, and the
    manifest.
    """

    def write(path: str, content: str) -> None:
        files[path] = into / path
        write_atomic(files[path], content)
        known[path] = digests(files[path])

    for path, text in (edited or {}).items():
        write(path, text)
    write(".gitattributes", git_attributes(Manifest(known)))

    def inside() -> dict[str, Any]:
        return {"schema": SCHEMA, **provenance, **Manifest(known).to_json()}

    if state:
        write(PROVENANCE_PATH, state(statement_of(inside())).decode())
    write(MANIFEST_PATH, json.dumps(inside(), indent=2, ensure_ascii=False) + "\n")


def of_models(merged: MergedWeights, adapter: TrainedAdapter) -> tuple[dict[str, Path], dict[str, Digests], list[str]]:
    """What of the weights and the adapter is published: local files and digests, by path; and what is left out."""
    files, known, left_out = of_weights(merged)
    more_files, more_known, more_left_out = _of_part(adapter, "adapter/", ADAPTER_FILES, "adapter/")
    return {**files, **more_files}, {**known, **more_known}, [*left_out, *more_left_out]


def of_weights(merged: MergedWeights) -> tuple[dict[str, Path], dict[str, Digests], list[str]]:
    """What of the weights is published, as :func:`of_models`."""
    return _of_part(merged, "model/", ROOT_FILES, "")


def _of_part(
    artifact: ArtifactFolder, folder: str, allowed: tuple[str, ...], prefix: str
) -> tuple[dict[str, Path], dict[str, Digests], list[str]]:
    files: dict[str, Path] = {}
    known: dict[str, Digests] = {}
    left_out: list[str] = []
    for name in artifact.contents.files:
        inner = name.removeprefix(folder)
        if inner == name:
            continue
        if any(fnmatchcase(inner, pattern) for pattern in allowed):
            files[prefix + inner] = artifact.folder / name
            known[prefix + inner] = artifact.contents.files[name]
        else:
            left_out.append(name)
    return files, known, left_out


def refuse_unfit(files: Mapping[str, Path], known: Mapping[str, Digests], merged: MergedWeights) -> None:
    """RefusedError when the screening finds in ``files`` what must not be published.

    The files at the root are the unchanged output of the merge: what it checked is not checked again.
    """
    finite = {path for path in files if known[path].sha256 in merged.finite}
    refuse_problems(screen(files, finite=finite, fits=not merged.fits))


def refuse_problems(problems: Sequence[Finding]) -> None:
    """RefusedError when the screening found ``problems``."""
    if problems:
        shown = "\n".join(f"  {problem.sentence}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise RefusedError(
            f"The bundle must not be published:\n{shown}{more}",
            hint="Fix the step that wrote these files, then run the same command again. Nothing was uploaded.",
        )


def _refuse_missing(files: Mapping[str, Path], form: Form) -> None:
    missing = [path for path in (*NEEDED[form], "README.md") if path not in files]
    if not any(path.endswith(".safetensors") and "/" not in path for path in files):
        missing.append("model.safetensors")
    if missing:
        raise RefusedError(f"The bundle lacks {', '.join(missing)}.", hint="See the log of the step that writes it.")


def git_attributes(manifest: Manifest) -> str:
    """The ``.gitattributes`` of a branch: git-lfs keeps the weights, and any other file that the Hub wants there.

    A file that is large and matched by no glob is named, as the Hub would otherwise add the line by itself, and the
    branch would no longer hold what was sent.
    """
    lines = [*_LFS_GLOBS]
    for path, item in sorted(manifest.files.items()):
        if item.size > _LFS_SIZE and not any(_matches(path, glob) for glob in _LFS_GLOBS):
            lines.append(re.sub(r"\s", "[[:space:]]", path))
    return "".join(f"{line} filter=lfs diff=lfs merge=lfs -text\n" for line in lines)


def _matches(path: str, glob: str) -> bool:
    """Whether a pattern without a slash matches, as in ``gitattributes(5)``: against the file's name."""
    return fnmatchcase(path.rsplit("/", 1)[-1], glob)


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
