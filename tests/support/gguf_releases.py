"""A release with GGUF files, whose training is already done: a branch or a repo of its own beside the variants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Self

from releases import RECIPE, Release, card, hub_of

from hubkit.core.files import Manifest
from hubkit.core.trees import compare, tree_of
from hubkit.recipe.gguf import Gguf
from hubkit.recipe.models import Recipe

NAME = "my-model"
CARD = card("GGUF files of my-model").replace("license: apache-2.0", "license: apache-2.0\nbase_model: hubkit/my-model")


def asking(place: str = "branch", **keys: Any) -> Recipe:
    """The recipe of the other tests, which asks for GGUF files at ``place``."""
    return RECIPE.model_copy(update={"gguf": Gguf(place=place, **keys)})


def gguf_file(kind: str, seed: int) -> bytes:
    """Bytes that stand for a file of the type ``kind``; others for each ``seed``."""
    return b"GGUF" + kind.encode() + bytes((seed + index) % 251 for index in range(4096)) + str(seed).encode()


@dataclass
class GgufRelease(Release):
    """One run whose recipe asks for GGUF files of main."""

    recipe: Recipe = field(default_factory=asking)

    def train(self, version: int = 1) -> Self:
        """Make all that comes before publishing, GGUF files too; they differ by ``version``."""
        super().train(version)
        for name in self.recipe.gguf_variants():
            self.write_gguf_files(name, {kind: gguf_file(kind, version) for kind in ("f16", "q8_0")}, version)
        return self

    def write_gguf_files(self, variant: str, files: dict[str, bytes], version: int) -> None:
        """Make the artifact with ``files`` (by type), and the card of their place."""
        stem = NAME if variant == "main" else f"{NAME}-{variant}"
        merged, facts = self.made[f"merge[{variant}]"], []
        written: dict[str, bytes | str | dict[str, Any]] = {
            "gguf/Modelfile": f"FROM ./{stem}-Q8_0.gguf\n",
            "gguf/params": '{"stop": ["<|im_end|>"]}\n',
        }
        for kind, content in files.items():
            name = f"{stem}-{kind.upper()}.gguf"
            written[f"gguf/{name}"] = content
            facts.append(
                {
                    "name": name, "kind": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
                    "worst_tensor": "output.weight", "largest_error": 0.001, "relative_error": 0.0001,
                    "stops": ["<|im_end|>"],
                }
            )  # fmt: skip
        source = {
            path.removeprefix("model/"): item.sha256
            for path, item in merged.manifest.files.items()
            if path.startswith("model/")
        }
        written["gguf.json"] = {
            "architecture": "llama", "files": facts, "ollama": ["Modelfile", "params"], "notes": [], "source": source,
        }  # fmt: skip
        self.make(f"gguf[{variant}]", written)
        cards = self.made[f"card[{variant}]"]
        kept = {name: (cards.path / name).read_bytes() for name in cards.manifest.files}
        self.make(f"card[{variant}]", {**kept, "gguf/README.md": CARD + f"\nVersion {version}.\n"})

    def publish(self, *names: str) -> Self:
        """Stage the variants and their GGUF files."""
        super().publish(*names)
        for name in self.recipe.gguf_variants():
            if any(job == f"publish-gguf[{name}]" for job in self.jobs()) and name in (names or self.recipe.variants):
                self.perform(f"publish-gguf[{name}]")
        return self

    def jobs(self) -> list[str]:
        """The ids of the jobs of the recipe."""
        from hubkit.pipeline.jobs import expand

        return [job.id for job in expand(self.recipe)]

    def gguf_manifest(self, variant: str = "main") -> Manifest:
        """What the place of the GGUF files is to hold."""
        return Manifest.from_json(self.made[f"publish-gguf[{variant}]"].json("bundle.json"))

    def assert_gguf_whole(self, variant: str = "main") -> None:
        """The place holds exactly the release's GGUF files."""
        place = self.recipe.gguf_place(variant)
        assert place is not None
        found = compare(tree_of(self.gguf_manifest(variant)), hub_of(self).tree(*place))
        assert not found, [change.sentence for change in found.changes]
