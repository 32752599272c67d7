"""A release whose training is already done: small artifacts, so that publishing can be tested by itself."""

from __future__ import annotations

import json
import struct
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kept import FACTS, Kept, kept, perform, sample
from samples import RECIPE_TEXT

from hubkit.core.files import Manifest, write_json
from hubkit.core.target import Target
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub, connect
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run, open_run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context, Options, StageResult
from hubkit.server.process import Running

RECIPE = parse_recipe(RECIPE_TEXT.replace("repo: me/my-model", "repo: hubkit/my-model"))
REPO = RECIPE.repo
FILES = 12
"""Files of a variant on its branch: two configs, two tokenizer files, two weights, two cards and how they were written,
and what git and hubkit keep."""


def weights(seed: int, size: int = 4096) -> bytes:
    """A sound safetensors file of one tensor with ``size`` bytes; another one for each ``seed``."""
    tensors: dict[str, Any] = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    if seed > 250:  # the bytes repeat
        tensors["__metadata__"] = {"seed": str(seed)}
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + bytes((seed + index) % 251 for index in range(size))


def card(title: str) -> str:
    return f"---\nlicense: apache-2.0\n---\n# {title}\n\nThe DPO variant is on `dpo-v0`.\n"


def target_of(hub: Running, home: Path, token: str | None = "owner") -> Target:
    return Target(hub.url, home / "hf", hub.token if token == "owner" else token, embedded=True)


def admin(hub: Running, method: str, path: str, value: Any = None) -> Any:
    """A request to the Hub's own API, as its owner."""
    body = None if value is None else json.dumps(value).encode()
    headers = {"authorization": f"Bearer {hub.token}", "content-type": "application/json"}
    request = urllib.request.Request(f"{hub.url}/api/hubkit/{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def faults(hub: Running, *script: dict[str, Any]) -> None:
    admin(hub, "PUT", "faults", list(script))


def requests(hub: Running) -> list[str]:
    return list(admin(hub, "GET", "faults")["requests"])


def writes(hub: Running) -> list[str]:
    """Requests since the faults were last set that write, or send bytes."""
    known = ("/commit/", "/branch/", "/repos/", "/tag/")
    return [
        line
        for line in requests(hub)
        if line.startswith("PUT ") or (not line.startswith(("GET ", "HEAD ")) and any(part in line for part in known))
    ]


@dataclass
class Folder:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


@dataclass
class Release:
    """One run on one Hub. ``recipe`` and ``options`` are those of the command that runs now."""

    folder: Path
    target: Target
    run: Run
    made: dict[str, Kept] = field(default_factory=dict)
    recipe: Recipe = RECIPE
    options: Options = field(default_factory=Options)

    @classmethod
    def on(cls, hub: Running, folder: Path, token: str | None = "owner", *, fresh: bool = False) -> Release:
        target = target_of(hub, folder, token)
        return cls(folder, target, open_run(folder, REPO, target, fresh=fresh))

    def job(self, step: str) -> Job:
        return next(job for job in expand(self.recipe) if job.id == step)

    def context(self, step: str, changes: dict[str, Any] | None = None, key: str = "k") -> Context[Any, Any]:
        """What the stage of ``step`` is given, of the artifacts that are made; ``changes`` are keys of the recipe."""
        self.run.begin(step, key)
        return self._context(step, changes)

    def _context(self, step: str, changes: dict[str, Any] | None = None) -> Context[Any, Any]:
        recipe = self.recipe.model_copy(update=changes or {})
        state = ReleaseState(recipe, self.folder, self.target, self.run, expand(recipe), dict(self.made), self.options)
        return state.context(self.job(step))

    def perform(self, step: str, changes: dict[str, Any] | None = None) -> Kept:
        """Run the stage of ``step`` and keep what it makes."""
        stage = find_stage(self.job(step).stage)
        self.made.pop(step, None)
        self.made[step] = perform(stage, self.context(step, changes), self.run, step)
        return self.made[step]

    def typed(self, step: str) -> Any:
        """The artifact of ``step``, as stages read it."""
        return find_stage(self.job(step).stage).Output.load(self.made[step].path)

    def outdated(self, step: str) -> str | None:
        """What has changed on the Hub since ``step`` made its artifact."""
        stage: Any = find_stage(self.job(step).stage)
        found: str | None = stage.outdated(self._context(step), self.typed(step))
        return found

    def make(self, step: str, files: dict[str, bytes | str | dict[str, Any]]) -> Kept:
        """An artifact of ``step`` with ``files``; JSON that a typed artifact reads is made complete."""
        self.run.begin(step, "k")
        out = self.run.out(step)
        if facts := FACTS.get(step.partition("[")[0]):
            files = {facts: {}, **files}
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                write_json(path, sample(name, **content))
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.made[step] = kept(self.run.keep(step, "k", StageResult(Folder(), "made"), 0.0))
        return self.made[step]

    def train(self, version: int = 1) -> Release:
        """Make all that comes before publishing; ``version`` changes the weights and the cards."""
        pinned = {"repo": "them/base", "commit": "b" * 40, "dtype": "bfloat16"}
        self.make("base", {"base.json": pinned})
        source = {"repo": "them/pairs", "commit": "d" * 40, "split": "train", "mapping": "pairs", "read": 1, "kept": 1}
        dataset = {"rows": 1, "sources": [{**source, "dropped": {}}]}
        self.make("data", {"data.json": {"sets": {"preferences": dataset}}})
        for number, (name, variant) in enumerate(RECIPE.variants.items()):
            seed = 10 * version + number
            adapter = {"base_model_name_or_path": "them/base", "revision": "b" * 40, "r": 4}
            self.make(
                f"train[{variant.stage}]",
                {
                    "adapter/adapter_config.json": adapter,
                    "adapter/adapter_model.safetensors": weights(seed + 100),
                    "adapter/README.md": "left by the trainer",
                    "training.json": {"stage": variant.stage, "libraries": {"trl": "1.16.0"}},
                },
            )
            self.make(
                f"merge[{name}]",
                {
                    "model/config.json": {"model_type": "mistral"},
                    "model/tokenizer_config.json": {"chat_template": None},
                    "model/tokenizer.json": {"model": {"vocab": {"/home/x": 1}}},
                    "model/model.safetensors": weights(seed),
                    "merge.json": {"dtype": "bfloat16"},
                },
            )
            self.make(
                f"card[{name}]",
                {
                    "README.md": card(f"{name} {version}"),
                    "adapter-README.md": card(f"adapter of {name}"),
                    "numbers.json": {
                        "README.md": [
                            {"step": f"stopping[{name}]", "pointer": "/forms/merged/rate", "value": 0.5 + seed / 100},
                            {"step": f"evaluate[{name}]", "pointer": "/average/value", "value": 0.25},
                            {"step": "base-stopping", "pointer": "/forms/base/rate", "value": 1.0},
                        ]
                    },
                },
            )
        return self

    def publish(self, *names: str) -> Release:
        for name in names or tuple(RECIPE.variants):
            self.perform(f"publish[{name}]")
        return self

    def promote(self) -> dict[str, Any]:
        """Promote all that is published; what release.json then says of the variants."""
        return dict(self.perform("promote").json("release.json")["variants"])


@dataclass
class Proposing(Release):
    """A release whose recipe says ``pull_request``."""

    recipe: Recipe = field(default_factory=RECIPE.proposed)


def hub_of(release: Release) -> Hub:
    """The client side's connection with the owner's token."""
    return connect(release.target)


def manifest(release: Release, name: str) -> Manifest:
    """What the branch ``name`` is to hold."""
    return Manifest.from_json(release.made[f"publish[{name}]"].json("bundle.json"))


def heads(release: Release) -> dict[str, str]:
    """Branch to commit, as the Hub says."""
    return hub_of(release).refs(REPO).branches


def assert_whole(release: Release, branch: str) -> None:
    """The branch holds exactly the release's bundle."""
    found = compare(tree_of(manifest(release, branch)), hub_of(release).tree(REPO, branch))
    assert not found, [change.sentence for change in found.changes]
