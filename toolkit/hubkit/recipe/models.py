"""The recipe: the YAML file that describes one release, as frozen models with the meaning of each key.

Training ``args`` and ``lora`` are the own keys of TRL and PEFT and are not repeated here: they are checked against the
installed classes (:mod:`hubkit.training.arguments`). How a file becomes a recipe: :mod:`hubkit.recipe.loading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, Field, model_validator

from hubkit.recipe.gguf import Gguf
from hubkit.recipe.hub_pages import Card as Card
from hubkit.recipe.hub_pages import Collection
from hubkit.recipe.hub_pages import Space as Space
from hubkit.recipe.launch import Launch
from hubkit.recipe.measuring import Evaluate as Evaluate
from hubkit.recipe.measuring import Gates as Gates
from hubkit.recipe.measuring import Probe as Probe
from hubkit.recipe.measuring import StopRate as StopRate
from hubkit.recipe.names import GGUF, MAIN, gguf_repo
from hubkit.recipe.readers import Readers
from hubkit.recipe.values import OLD_ACCEPT as OLD_ACCEPT
from hubkit.recipe.values import (
    Accepted,
    Branch,
    ColumnRole,
    DataFiles,
    DType,
    HubName,
    License,
    Model,
    Name,
    RepoId,
    ShareOrRows,
    Split,
    TrainOn,
    without_folders,
)

OLD_KEYS: Mapping[str, str] = {
    "licence": "license",
    "licence_name": "license_name",
    "licence_link": "license_link",
}
"""Keys that recipes were written with before, and still may be: (old, current)."""
ANSWER_TOKENS = 512
"""The token limit of an answer in the examples on a card and in a Space, where no stop rate is measured."""


class Place(NamedTuple):
    """Where a variant lives: a branch of a model repo."""

    repo: str
    branch: str


class Base(Model):
    """The model that is trained."""

    repo: RepoId = Field(description="model repo on the target Hub")
    revision: str = Field("main", description="branch, tag or commit; pinned to its commit when the run begins")
    dtype: DType = Field("bfloat16", description="dtype of the merged weights that are published")


class Chat(Model):
    """How a conversation becomes text."""

    template: str = Field(
        "base",
        description="chat template: 'base' (the base model's own), a known format such as chatml, or a Jinja file "
        "beside the recipe; 'completion' is plain text, for a base that is no chat model",
    )


class Source(Model):
    """One dataset, a repo on the Hub or files of one's own, and how its rows become conversations."""

    repo: RepoId | None = Field(None, description="dataset repo on the target Hub; this or `file`")
    file: DataFiles | None = Field(
        None,
        description="files beside the recipe instead of a repo: .jsonl, .json, .csv, .tsv or .parquet, also .gz of "
        "them; a name, a pattern such as data/*.jsonl, or a list",
    )
    revision: str = Field("main", description="branch, tag or commit of the repo")
    config: str | None = Field(None, min_length=1, description="configuration (subset) of the repo")
    split: Split = Field("train", description="split of the repo, as datasets takes it: train[:500], train+test")
    mapping: str | None = Field(
        None,
        description="the form of the rows, such as messages, sharegpt, alpaca or pairs (docs/data.md lists them); "
        "chosen by the columns when absent",
    )
    columns: Mapping[ColumnRole, str] = Field(
        default_factory=dict,
        description="your own names of the columns: {prompt: question, chosen: good, rejected: bad}",
    )
    rows: int | None = Field(None, gt=0, description="train on a random sample of this many rows; on all when absent")
    weight: float | None = Field(
        None,
        gt=0,
        description="share of this source in the mixture, relative to the others of its entry; no row is repeated",
    )
    duplicates: Literal["drop", "keep", "near"] = Field(
        "drop", description="rows that are in the entry already: drop, keep, or drop near duplicates (MinHash), too"
    )
    eval: ShareOrRows | None = Field(
        None, description="hold rows out for the trainer's evaluation loss: a share below 1, or a number of rows"
    )

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.repo is None) == (self.file is None):
            raise ValueError("write either `repo: namespace/name` or `file: data.jsonl`")
        keys = ("revision", "config", "split")
        given = [name for name in keys if getattr(self, name) != type(self).model_fields[name].default]
        if self.file is not None and given:
            raise ValueError(f"`{given[0]}` is of a repo; with `file`, name other files or set `rows`")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """What ``file`` names; nothing for a repo."""
        return (self.file,) if isinstance(self.file, str) else self.file or ()

    @property
    def name(self) -> str:
        """What this source is called: the repo, or the files by their names without the folders of this machine."""
        return self.repo or ", ".join(without_folders(pattern) for pattern in self.patterns)


class Training(Model):
    """One training stage: its code, its data, its LoRA adapter and the trainer's arguments; or what is adopted."""

    uses: str | None = Field(
        None,
        description="the stage's code: dpo, sft, adopt, or a name in the entry-point group hubkit.stages; "
        "the stage's own name when absent",
    )
    data: str | None = Field(
        None, description="the entry of `data` that this stage trains on; `uses: adopt` needs none"
    )
    adapter: str | None = Field(
        None,
        description="with `uses: adopt`: a folder with a PEFT adapter or a trainer's checkpoints, beside the recipe, "
        "or owner/repo@revision",
    )
    weights: str | None = Field(
        None,
        description="with `uses: adopt`: a folder with the weights of a whole model in safetensors, or owner/repo",
    )
    base: str | None = Field(
        None,
        description="with `uses: adopt`: the base that adapter_config.json names, when that is a local path or a "
        "mirror of the recipe's base: states that it is the same model",
    )
    trained_with: str | None = Field(None, description="with `uses: adopt`: what trained it, such as axolotl 0.9")
    training: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None,
        description="with `uses: adopt`: files that report the training: trainer_state.json, train_results.json, "
        "a Weights & Biases export, an axolotl YAML",
    )
    continues: str | None = Field(
        None, description="continue training the adapter of this stage instead of starting a new one"
    )
    train_on: TrainOn = Field(
        "last", description="answers of an SFT conversation that are trained: the last one, or all of them"
    )
    quantization: Literal["nf4", "none"] = Field(
        "nf4", description="nf4: train on the base in 4 bits (QLoRA); none: on the unquantized base"
    )
    lora: Mapping[str, Any] | Literal["none"] = Field(
        default_factory=dict, description="keys of peft.LoraConfig; none: train all the weights, without an adapter"
    )
    args: Mapping[str, Any] = Field(
        default_factory=dict,
        description="keys of trl.DPOConfig or trl.SFTConfig; per_device_train_batch_size may be auto",
    )
    batch_size: int | None = Field(
        None,
        gt=0,
        description="rows of an optimizer step, over all devices; gradient_accumulation_steps follows from it",
    )
    checkpoint_minutes: float | None = Field(
        None,
        gt=0,
        description="minutes between checkpoints; when absent, 15, or more where saving takes long",
    )
    launch: Launch | None = Field(None, description="processes of this stage; the recipe's `launch` when absent")
    probe: Probe | Literal["none"] = Field(
        Probe(), description="measures the stop rate while the stage trains; none: it is not measured before the end"
    )
    speedups: Literal["auto", "none"] = Field(
        "auto",
        description="of a DPO stage: auto: compute each prompt once and without padding, where that is proved equal to "
        "TRL, and keep the reference's log-probabilities for later runs; none: as TRL alone does",
    )
    accept: tuple[Accepted, ...] = Field(
        (),
        strict=False,
        description="release although the data check found this; the card reports it",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_quantized(cls, given: Any) -> Any:
        """Without `quantization`: all the weights cannot be trained in 4 bits, and of what is adopted nobody knows."""
        if isinstance(given, Mapping) and (given.get("lora") == "none" or given.get("adapter") or given.get("weights")):
            return {"quantization": "none", **given}
        return given

    @property
    def trains_all_weights(self) -> bool:
        """Whether the stage trains the whole model, and no adapter."""
        return self.lora == "none"

    @property
    def lora_keys(self) -> Mapping[str, Any]:
        """The keys of peft.LoraConfig; empty where no adapter is trained."""
        return {} if isinstance(self.lora, str) else self.lora

    @property
    def adopted(self) -> str | None:
        """The folder or repo that is adopted; None for a stage that trains."""
        return self.adapter or self.weights

    @property
    def reports(self) -> tuple[str, ...]:
        """The files that report the training of what is adopted."""
        return (self.training,) if isinstance(self.training, str) else self.training or ()


class Variant(Model):
    """What one branch publishes, or with `layout: repos` one repo."""

    stage: str = Field(description="the training stage whose adapter, or weights, are published")
    repo: RepoId | None = Field(
        None,
        description="with `layout: repos`, the model repo of this variant; when absent, the recipe's `repo` and "
        "-VARIANT, and `repo` itself for main",
    )
    gate: Literal["enforce", "report"] = Field(
        "enforce",
        description="enforce: publish only if the stop rate passes; report: publish and report it on the card",
    )
    title: str | None = Field(None, description="what this variant is, in a few words, for the cards")
    new_version: RepoId | None = Field(
        None, description="the model repo that replaces this variant; `card.new_version` when absent"
    )


class Sign(Model):
    """Who signs what is published (needs the extra ``sign``): a private key, or the identity of a CI job."""

    key: str | None = Field(
        None, description="an EC private key (PEM) beside the recipe; HUBKIT_SIGNING_PASSWORD decrypts it"
    )
    keyless: bool = Field(False, description="sign with Sigstore, by the OIDC identity of the CI job")

    @model_validator(mode="after")
    def _one(self) -> Sign:
        if (self.key is None) != self.keyless:
            raise ValueError("write either `key: FILE` or `keyless: true`")
        return self


class Recipe(Model):
    """One release: a model repo with a branch for each variant, or a repo for each."""

    LATER = frozenset({"gguf", "readers"})
    repo: RepoId = Field(description="model repo to publish to")
    layout: Literal["branches", "repos"] = Field(
        "branches",
        description="branches: each variant on a branch of `repo`; repos: each in a repo of its own, on main",
    )
    visibility: Literal["public", "private"] = Field(description="of the model repo and the Space; there is no default")
    gated: Literal["auto", "manual"] | Literal[False] | None = Field(
        None,
        description="who may read the files: auto: whoever fills in the form, manual: whoever you accept, false: "
        "everybody; when absent, the repo's setting is left as it is",
    )
    license: License | None = Field(
        None,
        validation_alias=AliasChoices("license", "licence"),
        description="license identifier of the Hub, such as apache-2.0; the base model's when absent",
    )
    license_name: str | None = Field(
        None,
        validation_alias=AliasChoices("license_name", "licence_name"),
        description="name of the license, with `license: other`",
    )
    license_link: str | None = Field(
        None,
        validation_alias=AliasChoices("license_link", "licence_link"),
        description="where to read the license, with `license: other`",
    )
    hub: HubName = Field("embedded", description="where to publish: embedded, huggingface or a URL")
    provide: str | None = Field(
        None, description="a built-in recipe that creates the base and datasets that the embedded Hub lacks"
    )
    seed: int = Field(0, description="seed of everything random")
    base: Base
    chat: Chat = Chat()
    data: Mapping[Name, Annotated[tuple[Source, ...], Field(strict=False)]] = Field(
        default_factory=dict, description="training data, by name; each entry is one or more Hub datasets"
    )
    stages: Mapping[Name, Training] = Field(min_length=1, description="training stages, under names that you choose")
    launch: Launch | None = Field(None, description="processes of each training stage; one when absent")
    variants: Mapping[Branch, Variant] = Field(min_length=1, description="what is published, by branch")
    evaluate: Evaluate = Evaluate()
    gates: Gates = Gates()
    card: Card
    gguf: Gguf | None = None
    readers: Readers = Field(
        (), description="programs that also read what is published, in pinned versions, for the card's `Works with`"
    )
    space: Space | None = None
    collection: Collection | None = None
    sign: Sign | None = None
    protected: tuple[Branch, ...] = Field(
        (), strict=False, description="branches and tags that `hubkit revisions` changes only with --force"
    )
    preupload: bool = Field(
        False,
        description="upload the weights while the models are still measured; when a gate then refuses them they stay "
        "in the repo's storage, in no branch",
    )
    pull_request: bool = Field(
        False, description="open pull requests instead of writing the repo's branches (as --pr does)"
    )

    def for_any_hub(self) -> Recipe:
        """This recipe, without the Hub that it is published to: cards are the same on each Hub."""
        return self.model_copy(update={"hub": "embedded"})

    def proposed(self) -> Recipe:
        """This recipe with ``pull_request: true``."""
        return self.model_copy(update={"pull_request": True})

    def signed_with(self, key: Path) -> Recipe:
        """This recipe, signed by the private key in the file ``key`` instead of its own ``sign``."""
        return self.model_copy(update={"sign": Sign(key=str(key.absolute()))})

    def place(self, variant: str) -> Place:
        """Where ``variant`` lives: its branch of the recipe's repo, or with `layout: repos` main of its own repo."""
        if self.layout == "branches":
            return Place(self.repo, variant)
        default = self.repo if variant == MAIN else f"{self.repo}-{variant.replace('/', '-')}"
        return Place(self.variants[variant].repo or default, MAIN)

    def gguf_variants(self) -> tuple[str, ...]:
        """The variants of which GGUF files are published, in the order in which their branches move."""
        asked = self.gguf.variants if self.gguf else ()
        return tuple(name for name in self.publishing_order() if name in asked)

    def gguf_place(self, variant: str) -> Place | None:
        """Where the GGUF files of ``variant`` live; None: there are none. With `place: folder` the variant's place."""
        if self.gguf is None or variant not in self.gguf.variants:
            return None
        place = self.place(variant)
        if self.gguf.place == "folder":
            return place
        if self.gguf.place == "branch":
            return Place(place.repo, GGUF if place.branch == MAIN else f"{place.branch}-{GGUF}")
        return Place(self.gguf.repo or gguf_repo(*place), MAIN)

    def gguf_gate(self, variant: str) -> Literal["enforce", "report"]:
        """Whether a GGUF file of ``variant`` that fails the gate on the stop rate stops the release."""
        return (self.gguf.gate if self.gguf else None) or self.variants[variant].gate

    def repos(self) -> tuple[str, ...]:
        """Every model repo that is published to, in the order in which their branches move, those of GGUF files too."""
        gguf = [place.repo for name in self.gguf_variants() if (place := self.gguf_place(name))]
        variants = self.variant_repos()
        return tuple(dict.fromkeys([*(repo for repo in gguf if repo not in variants), *variants]))

    def variant_repos(self) -> tuple[str, ...]:
        """The model repos of the variants, in the order in which their branches move."""
        return tuple(dict.fromkeys(self.place(name).repo for name in self.publishing_order()))

    def newer(self, variant: str) -> str | None:
        """The model repo that replaces ``variant``; None: it is current."""
        return self.variants[variant].new_version or self.card.new_version

    def label(self, variant: str) -> str:
        """What a reader calls ``variant``: its branch, or its own repo (without the namespace, where all share one)."""
        place = self.place(variant)
        if self.layout == "branches":
            return place.branch
        shared = {repo.partition("/")[0] for repo in self.variant_repos()} == {self.repo.partition("/")[0]}
        return place.repo.partition("/")[2] if shared else place.repo

    def chain(self, stage: str) -> tuple[str, ...]:
        """The stages whose training leads to ``stage``'s adapter, first to last."""
        names: list[str] = []
        name: str | None = stage
        while name is not None and name not in names:
            names.append(name)
            name = self.stages[name].continues
        return tuple(reversed(names))

    @property
    def answer_tokens(self) -> int:
        """The token limit of an answer: that of the measured stop rate, else :data:`ANSWER_TOKENS`."""
        return self.gates.stop_rate.max_new_tokens if self.gates.stop_rate else ANSWER_TOKENS

    def form(self, stage: str) -> Literal["adapter", "weights"]:
        """What the training up to ``stage`` leaves: an adapter for the base, or the weights of a whole model.

        Once all the weights were trained, what is trained further are these: an adapter on them is merged into them.
        """
        chain = [self.stages[name] for name in self.chain(stage)]
        return "weights" if any(item.trains_all_weights or item.weights for item in chain) else "adapter"

    def published_form(self, variant: str) -> Literal["adapter", "weights"]:
        """What the training of ``variant`` leaves. With an adapter two forms are published, else the weights alone."""
        return self.form(self.variants[variant].stage)

    def launch_of(self, stage: str) -> Launch | None:
        """How the processes of ``stage`` are started; None for one process, and where nothing is trained."""
        training = self.stages[stage]
        return None if training.adopted is not None else training.launch or self.launch

    def sources(self, stage: str) -> tuple[Source, ...]:
        """The datasets that ``stage`` trains on; none for one that is adopted."""
        name = self.stages[stage].data
        return self.data[name] if name is not None else ()

    def wanted_stages(self) -> tuple[str, ...]:
        """The stages that some variant needs, in the order in which they run."""
        names: dict[str, None] = {}
        for variant in self.variants.values():
            names.update(dict.fromkeys(self.chain(variant.stage)))
        return tuple(names)

    def publishing_order(self) -> tuple[str, ...]:
        """The variants, ``main`` last: a reader of ``main`` never sees an unfinished release."""
        return tuple(sorted(self.variants, key=lambda name: name == MAIN))
