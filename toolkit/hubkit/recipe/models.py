"""The recipe: one YAML file that says what a release is. All of its mistakes are reported at once, with their lines.

The models are frozen. Training ``args`` and ``lora`` are the own keys of TRL and PEFT and are not mirrored here:
the stages check them against the installed dataclasses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hubkit.core.errors import UsageError
from hubkit.core.names import ref_problem, repo_id_problem
from hubkit.core.yaml_text import Lines, parse_yaml

RECIPE_FILE = "hubkit.yaml"
MAIN = "main"
STAGING = "staging"


def _repo_id(value: str) -> str:
    if problem := repo_id_problem(value):
        raise ValueError(f"{value!r} is not a repo id: {problem}")
    return value


def _branch(value: str) -> str:
    if problem := ref_problem(value):
        raise ValueError(f"{value!r} cannot be a branch: {problem}")
    if value == STAGING or value.startswith(f"{STAGING}/"):
        raise ValueError(f"{value!r} cannot be a variant's branch: '{STAGING}/' is where releases are prepared")
    return value


def _hub(value: str) -> str:
    if value in {"embedded", "huggingface"} or re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value):
        return value.rstrip("/")
    raise ValueError(f"{value!r} is no Hub: write 'embedded', 'huggingface' or a URL")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError(f"{value!r} cannot be a name here: letters, digits, '-' and '_' only")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A name of the recipe's own that becomes the name of files."""
RepoId = Annotated[str, AfterValidator(_repo_id)]
Branch = Annotated[str, AfterValidator(_branch)]
HubName = Annotated[str, AfterValidator(_hub)]
DType = Literal["bfloat16", "float16", "float32"]


class Model(BaseModel):
    """A frozen part of a recipe that knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


class Base(Model):
    """The model that is trained: a repo on the target Hub, loaded by the commit that ``revision`` names."""

    repo: RepoId
    revision: str = "main"
    dtype: DType = Field("bfloat16", description="dtype of the merged weights that are published")


class Chat(Model):
    """How a conversation becomes text."""

    template: str = Field(
        "base",
        description="'base' (its own), a format of hubkit.models.chat.library, or a Jinja file beside the recipe",
    )


class Source(Model):
    """One data set of the Hub, with the mapping from its columns to conversations."""

    repo: RepoId
    revision: str = "main"
    split: str = "train"
    mapping: str | None = Field(
        None, description="name of a mapping in hubkit.training.data; found by the columns when absent"
    )
    rows: int | None = Field(None, gt=0, description="a seeded sample of this many rows; all when absent")


class Training(Model):
    """One training stage: the stage's code (``uses``), its data, its adapter and the trainer's own arguments."""

    uses: str | None = Field(None, description="name in the entry-point group hubkit.stages; the key when absent")
    data: str = Field(description="a key of `data`")
    continues: str | None = Field(None, description="the stage whose adapter goes on being trained")
    quantization: Literal["nf4", "none"] = "nf4"
    lora: Mapping[str, Any] = Field(default_factory=dict, description="keys of peft.LoraConfig")
    args: Mapping[str, Any] = Field(default_factory=dict, description="keys of the TRL config of this stage")
    accept: tuple[Literal["truncated-turn-ends", "dropped-rows"], ...] = Field(
        (), strict=False, description="findings of the data check that this release lets pass, said aloud"
    )


class Variant(Model):
    """What one branch publishes: the stage whose adapter it is, and whether its gate holds the release back."""

    stage: str
    gate: Literal["enforce", "report"] = "enforce"
    title: str | None = Field(None, description="what this variant is, in a few words, for the cards")


class Evaluate(Model):
    """Benchmarks, run by lm-evaluation-harness."""

    suites: tuple[str, ...] = Field(strict=False)
    include: str | None = Field(None, description="a folder of lm-eval task files beside the recipe")
    backend: Literal["hf", "vllm"] = Field("hf", description="what the harness runs the model with")
    limit: int | None = Field(None, gt=0, description="examples per task; marks the result as a rehearsal's")
    num_fewshot: int | None = Field(
        None, ge=0, description="examples in the prompt; each task's own number when absent"
    )
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = Field(
        None, description="examples in the prompt as turns of their own; when absent, with the chat template"
    )
    batch_size: int = Field(8, gt=0)


class StopRate(Model):
    """The gate on turn ends: share of greedy generations that emit the turn end within the token limit."""

    prompts: int = Field(256, gt=0, description="how many held-out prompts")
    prompts_from: str = Field(description="the key of `data` from which they are held out, never trained on")
    max_new_tokens: int = Field(1024, gt=0)
    at_least: float | str = Field("base - 0.02", description="a share, or 'base - X'")
    batch_size: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _threshold(self) -> StopRate:
        self.threshold(1.0)
        return self

    def threshold(self, base_rate: float) -> float:
        """The least stop rate that passes, as a share, when the base's is ``base_rate``."""
        if isinstance(self.at_least, str):
            found = re.fullmatch(r"base\s*-\s*(0?\.\d+|0)", self.at_least.strip())
            if not found:
                raise ValueError(f"at_least: {self.at_least!r} is neither a share such as 0.95 nor 'base - 0.02'")
            return base_rate - float(found[1])
        if not 0 <= self.at_least <= 1:
            raise ValueError(f"at_least: {self.at_least} is not a share between 0 and 1")
        return self.at_least


class Gates(Model):
    """Conditions that must hold before anything is promoted."""

    stop_rate: StopRate


class Card(Model):
    """What only a person can say on the card; every number comes from a measurement."""

    title: str
    summary: str
    language: tuple[str, ...] = Field(("en",), strict=False)
    tags: tuple[str, ...] = Field((), strict=False)
    authors: tuple[str, ...] = Field((), strict=False)
    tracking: str | None = Field(None, description="URL of the training report")
    limitations: str | None = None
    template: str | None = Field(
        None, description="a Jinja file, or a folder of them, beside the recipe: {% extends 'hubkit/model.md.jinja' %}"
    )


class Space(Model):
    """The Gradio Space in which people try the variants. It is as public or as private as the model repo."""

    repo: RepoId
    title: str | None = None
    prompts: tuple[str, ...] = Field((), strict=False, description="examples to click on; the first is asked on deploy")
    hardware: str | None = Field(None, description="the Hub's name of the hardware, such as t4-small; its free CPU")


class Sign(Model):
    """Who signs what is published (the extra ``sign``): a key of yours, or the identity of the CI job."""

    key: str | None = Field(
        None, description="an EC private key (PEM) beside the recipe; HUBKIT_SIGNING_PASSWORD opens an encrypted one"
    )
    keyless: bool = Field(False, description="by Sigstore, with the OIDC identity that the CI job is given")

    @model_validator(mode="after")
    def _one(self) -> Sign:
        if (self.key is None) != self.keyless:
            raise ValueError("write either `key: FILE` or `keyless: true`")
        return self


class Recipe(Model):
    """One release: a model repo with a branch for each variant."""

    repo: RepoId
    visibility: Literal["public", "private"] = Field(description="required: neither is a safe default")
    licence: str | None = Field(
        None, description="the Hub's licence identifier, such as apache-2.0; the base model's when absent"
    )
    licence_name: str | None = Field(None, description="with `licence: other`: its name")
    licence_link: str | None = Field(None, description="with `licence: other`: where it can be read")
    hub: HubName = Field("embedded", description="'embedded', 'huggingface' or a URL")
    provide: str | None = Field(None, description="a built-in recipe that makes what the embedded Hub lacks")
    seed: int = 0
    base: Base
    chat: Chat = Chat()
    data: Mapping[Name, Annotated[tuple[Source, ...], Field(strict=False)]]
    stages: Mapping[Name, Training] = Field(min_length=1)
    variants: Mapping[Branch, Variant] = Field(min_length=1)
    evaluate: Evaluate
    gates: Gates
    card: Card
    space: Space | None = None
    sign: Sign | None = None
    protected: tuple[Branch, ...] = Field(
        (), strict=False, description="branches and tags that `hubkit revisions` changes only with --force"
    )

    pull_request: bool = Field(
        False, description="propose the release to a repo of others by pull requests, in place of writing its branches"
    )

    def proposed(self) -> Recipe:
        """This recipe, published by pull requests whatever it says itself."""
        return self.model_copy(update={"pull_request": True})

    def signed_with(self, key: Path) -> Recipe:
        """This recipe, signed by the private key in the file ``key`` whatever it says itself."""
        return self.model_copy(update={"sign": Sign(key=str(key.absolute()))})

    def chain(self, stage: str) -> tuple[str, ...]:
        """The stages whose training leads to ``stage``'s adapter, first to last."""
        found: list[str] = []
        name: str | None = stage
        while name is not None and name not in found:
            found.append(name)
            name = self.stages[name].continues
        return tuple(reversed(found))

    def wanted_stages(self) -> tuple[str, ...]:
        """The stages that some variant needs, in the order in which they run."""
        found: dict[str, None] = {}
        for variant in self.variants.values():
            found.update(dict.fromkeys(self.chain(variant.stage)))
        return tuple(found)

    def publishing_order(self) -> tuple[str, ...]:
        """The variants, ``main`` last: a reader of ``main`` never sees a release that is not whole."""
        return tuple(sorted(self.variants, key=lambda name: name == MAIN))


def _crossed(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Mistakes that only show when two parts are seen together: (path of keys, sentence)."""
    for name, sources in recipe.data.items():
        if not sources:
            yield ("data", name), "this set has no source; name at least one repo"
    for name, stage in recipe.stages.items():
        if stage.data not in recipe.data:
            yield (
                ("stages", name, "data"),
                f"there is no data set {stage.data!r}{_meant(stage.data, recipe.data)}",
            )
        if stage.continues is not None and stage.continues not in recipe.stages:
            yield (
                ("stages", name, "continues"),
                f"there is no stage {stage.continues!r}{_meant(stage.continues, recipe.stages)}",
            )
        elif stage.continues is not None and recipe.stages[recipe.chain(name)[0]].continues is not None:
            yield ("stages", name, "continues"), "the stages continue each other in a circle"
    for name, variant in recipe.variants.items():
        if variant.stage not in recipe.stages:
            yield (
                ("variants", name, "stage"),
                f"there is no stage {variant.stage!r}{_meant(variant.stage, recipe.stages)}",
            )
    if MAIN not in recipe.variants:
        yield ("variants",), "no variant is published on 'main'; add one"
    folded: dict[str, str] = {}
    for name in recipe.variants:
        if folded.setdefault(name.lower(), name) != name:
            yield ("variants", name), "two branches differ only in upper and lower case"
        for other in recipe.variants:
            if other.startswith(f"{name}/"):
                yield ("variants", other), f"git cannot hold a branch {other!r} beside a branch {name!r}"
    if recipe.licence == "other" and not (recipe.licence_name and recipe.licence_link):
        yield ("licence",), "'other' needs `licence_name` and `licence_link` beside it"
    if not recipe.evaluate.suites:
        yield ("evaluate", "suites"), "name at least one suite or task"
    if recipe.evaluate.fewshot_as_multiturn and not recipe.evaluate.apply_chat_template:
        yield ("evaluate", "fewshot_as_multiturn"), "turns need the chat template; set apply_chat_template: true"
    source = recipe.gates.stop_rate.prompts_from
    if source not in recipe.data:
        yield (
            ("gates", "stop_rate", "prompts_from"),
            f"there is no data set {source!r}{_meant(source, recipe.data)}",
        )
    if recipe.provide and recipe.hub not in {"embedded"}:
        yield ("provide",), "only the embedded Hub can be provided for; remove it, or set hub: embedded"


def _meant(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, [str(item) for item in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def load_recipe(path: Path) -> Recipe:
    """The recipe in ``path``.

    Raises UsageError (exit code 2) that lists every mistake with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no recipe at {path}.",
            hint="Write one with `hubkit init`, or name a built-in one, such as tiny.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the recipe {path}: {error}.") from error
    return parse_recipe(text, path.name)


def parse_recipe(text: str, name: str = RECIPE_FILE) -> Recipe:
    """The recipe in ``text``; ``name`` is what messages call the file."""
    value, lines = parse_yaml(text, name)
    if not isinstance(value, dict):
        raise UsageError(f"{name} is empty or not a mapping of keys.", hint="Start from `hubkit init`.")
    try:
        recipe = Recipe.model_validate(value)
        mistakes = list(_crossed(recipe))
    except ValidationError as error:
        recipe, mistakes = None, [_sentence(item) for item in error.errors()]
    if recipe is None or mistakes:
        said = sorted((_line_of(path, lines), ".".join(path), sentence) for path, sentence in mistakes)
        listed = [f"{name}:{line}: {where + ': ' if where else ''}{sentence}" for line, where, sentence in said]
        count = "one mistake" if len(listed) == 1 else f"{len(listed)} mistakes"
        raise UsageError(
            f"{name} has {count}:\n" + "\n".join(f"  {item}" for item in listed),
            hint="`hubkit init` writes a recipe with every key explained.",
        )
    return recipe


def _line_of(path: tuple[str, ...], lines: Lines) -> int:
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _sentence(item: Any) -> tuple[tuple[str, ...], str]:
    """A pydantic error as (path of keys, sentence)."""
    path = tuple(str(part) for part in item["loc"] if part != "[key]")
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return path, f"unknown key{_meant(path[-1], _keys_at(path[:-1]))}"
    if kind == "missing":
        return path, "this key is required"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "literal_error":
        return (
            path,
            f"{item['input']!r} is not one of {context['expected']}{_meant(str(item['input']), _words(context))}",
        )
    shown = repr(item["input"])
    return (
        path,
        f"{item['msg'][0].lower()}{item['msg'][1:]}, not {shown if len(shown) < 60 else shown[:57] + '...'}",
    )


def _words(context: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(context["expected"]))


def _keys_at(path: tuple[str, ...]) -> list[str]:
    """The keys that the recipe knows at ``path``, read from its JSON schema."""
    schema = recipe_schema()
    node: Any = schema
    for part in path:
        node = _resolved(node, schema)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif isinstance(node.get("additionalProperties"), dict):
            node = node["additionalProperties"]
        elif "items" in node:
            node = node["items"]
        else:
            return []
    return list(_resolved(node, schema).get("properties", {}))


def _resolved(node: Any, schema: Any) -> Any:
    for choice in node.get("anyOf", []):
        if "$ref" in choice:
            node = choice
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors (draft 2020-12)."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hubkit recipe", **schema}
