"""The recipe that `hubkit init --base ... --data ...` writes, with a comment on where each value is from.

What is known about the base and the data is read from the Hub (:mod:`hubkit.pipeline.model_facts`). What only a person
knows (what the model is good for, its limits) is a sentence or two that hold for any model, to be replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from hubkit.core.errors import UsageError
from hubkit.core.numbers import count, counted
from hubkit.core.printable import printable
from hubkit.core.yaml_text import parse_yaml
from hubkit.recipe.new_recipe import space_repo

_FREE_CPU_BYTES = 12_000_000_000
"""Weights that fit beside an app in the 16 GB of the Hub's free hardware."""
_SMALL, _LARGE = 1_000_000_000, 3_000_000_000
"""Parameters below which an adapter needs higher rates, and from which the base is trained in 4 bits."""


@dataclass(frozen=True)
class BaseFacts:
    """What the Hub tells about a base model. ``context``: the longest sequence in tokens."""

    repo: str
    architecture: str
    parameters: int
    dtype: str
    context: int | None
    license: str | None
    license_name: str | None
    license_link: str | None
    language: tuple[str, ...]
    has_template: bool


@dataclass(frozen=True)
class DataFacts:
    """What the first rows of a dataset tell. Lengths are in tokens: 99 of 100 rows, or answers, are not longer.

    ``local``: it is no repo but a file of this name.
    ``rows`` is exact if ``all_rows``, else a lower bound. ``mapping`` reads ``columns`` as rows of ``kind``.
    """

    repo: str
    split: str
    columns: tuple[str, ...]
    mapping: str
    kind: Literal["preference", "sft"]
    rows: int
    all_rows: bool
    row_tokens: int
    answer_tokens: int
    local: bool = False


@dataclass(frozen=True)
class Draft:
    """What a recipe is written from. ``repo`` is the model repo to publish to, ``hub`` the Hub by its name."""

    repo: str
    hub: str
    base: BaseFacts
    data: tuple[DataFacts, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """The training stages, in order: DPO where there are preference pairs, then SFT where there are chats."""
        kinds = {item.kind for item in self.data}
        return tuple(name for name, kind in (("dpo", "preference"), ("sft", "sft")) if kind in kinds)


_KINDS = {"dpo": "preference", "sft": "sft"}
_SETS = {"dpo": "pairs", "sft": "chats"}


def default_repo(account: str, base: str, kinds: Iterable[str]) -> str:
    """``account``'s repo for a release on ``base``: the base's name and the methods, ``me/SmolLM2-135M-dpo-sft``."""
    have = set(kinds)
    methods = "".join(f"-{name}" for name, kind in _KINDS.items() if kind in have)
    return f"{account}/{base.partition('/')[2][: 96 - len(methods)]}{methods}"


def draft(made: Draft) -> str:
    """The recipe as YAML."""
    base = made.base
    parts = (
        _head(made), release_lines(base, made.repo, made.hub), base_lines(base), _chat(base), _data(made),
        _stages(made), _variants(made), evaluate_lines(base, made.hub), _gates(made), card_lines(base, made.repo),
        space_lines(base, made.repo, len(made.stages)),
    )  # fmt: skip
    return "\n".join(line for part in parts for line in part) + "\n"


def with_values(text: str, values: Sequence[str]) -> str:
    """The recipe ``text`` with each ``KEY=VALUE`` of ``values`` set, comments kept. KEY is ``stages.dpo.args.beta``.

    UsageError for one that is no such pair, or whose value is no YAML. Keys that are no keys of a recipe are found
    when the recipe is read.
    """
    if not values:
        return text
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    recipe = yaml.load(text)
    for given in values:
        path, equals, value = given.partition("=")
        *parents, key = path.strip().split(".")
        if not equals or not key or not all(parents):
            raise UsageError(f"--set {given!r} is not KEY=VALUE.", hint="Such as --set stages.dpo.args.beta=0.2.")
        try:
            plain = parse_yaml(value, "the value")[0]
        except UsageError as error:
            raise UsageError(f"--set {given!r}: {error.message}", hint="Quote it.") from error
        node: Any = recipe
        for name in parents:
            node = node.get(name) if isinstance(node, CommentedMap) else None
        if not isinstance(node, CommentedMap):
            raise UsageError(
                f"--set {given!r}: the recipe has no keys below {'.'.join(parents)}.",
                hint=f"Set {'.'.join(parents)} as a whole: --set '{parents[0]}={{...}}'.",
            )
        if key in node:
            node[key] = plain
        else:  # not at the end, which is below the empty line before the next part
            node.insert(1, key, plain)
    out = StringIO()
    yaml.dump(recipe, out)
    return out.getvalue()


def _head(made: Draft) -> Iterator[str]:
    yield f"# The recipe of one release, written by `hubkit init` for the base {words(made.base.repo)}."
    yield "# `hubkit plan` shows what it would do, `hubkit release` does it. Change what you know better."
    yield ""


def release_lines(base: BaseFacts, repo: str, hub: str) -> Iterator[str]:
    """What is published, and where."""
    yield "# The model repo to publish to. Each variant below becomes one of its branches."
    yield f"repo: {value_text(repo)}"
    yield "# public or private."
    yield "visibility: private"
    yield from _license(base)
    yield "# Where to publish: embedded (a Hub on this machine), huggingface, or a URL. `--hub` overrides it."
    yield f"hub: {value_text(hub)}"
    yield ""


def _license(base: BaseFacts) -> Iterator[str]:
    if base.license is None:
        yield "# The base's card names no license. Set one that the base's authors allow:"
        yield "# license: "
        return
    yield "# The license of the published weights, from the base's card."
    yield f"license: {value_text(base.license)}"
    if base.license == "other":
        yield f"license_name: {value_text(base.license_name)}"
        yield f"license_link: {value_text(base.license_link)}"


def base_lines(base: BaseFacts) -> Iterator[str]:
    """The base, without its chat template."""
    context = f", up to {counted(base.context, 'token')}" if base.context else ""
    yield f"# {words(base.architecture)} with {counted(base.parameters, 'parameter')} in {base.dtype}{context}."
    yield "base:"
    yield f"  repo: {value_text(base.repo)}"
    yield "  # dtype of the merged weights that are published: the base's own"
    yield f"  dtype: {base.dtype}"


def _chat(base: BaseFacts) -> Iterator[str]:
    if not base.has_template:
        yield ""
        yield "# The base has no chat template of its own."
        yield "chat: {template: chatml}"
    yield ""


def _data(made: Draft) -> Iterator[str]:
    yield "data:"
    for stage in made.stages:
        yield f"  {_SETS[stage]}:"
        for item in _of(made, stage):
            columns = ", ".join(words(name) for name in item.columns[:12]) + (", ..." if len(item.columns) > 12 else "")
            yield f"    # {'' if item.all_rows else 'at least '}{counted(item.rows, 'row')}; columns: {columns}"
            split = f", split: {value_text(item.split)}" if item.split != "train" else ""
            key = "file" if item.local else "repo"
            yield f"    - {{{key}: {value_text(item.repo)}, mapping: {item.mapping}{split}}}"
    yield ""


def _of(made: Draft, stage: str) -> list[DataFacts]:
    return [item for item in made.data if item.kind == _KINDS[stage]]


def _stages(made: Draft) -> Iterator[str]:
    large = made.base.parameters >= _LARGE
    yield "# Keys of `args` are those of trl.DPOConfig and trl.SFTConfig, keys of `lora` those of peft.LoraConfig."
    yield "stages:"
    for place, stage in enumerate(made.stages):
        yield f"  {stage}:"
        yield f"    data: {_SETS[stage]}"
        if place:
            yield "    # one adapter on one base: it goes on with the adapter of the stage before"
            yield f"    continues: {made.stages[place - 1]}"
        yield f"    # nf4 trains on the base in 4 bits (QLoRA), none on the weights as they are; {_size(made.base)}"
        yield f"    quantization: {'nf4' if large else 'none'}"
        if not place:
            yield "    lora: {r: 16, lora_alpha: 32, lora_dropout: 0.05, target_modules: all-linear}"
        yield "    args:"
        for key, value, why in _arguments(made, stage):
            yield f"      {key}: {value}{f'  # {why}' if why else ''}"
    yield ""


def _size(base: BaseFacts) -> str:
    weights = base.parameters * 2 / 1e9
    return f"in 16 bits this base has {weights:.1f} GB"


def _arguments(made: Draft, stage: str) -> Iterator[tuple[str, object, str]]:
    """(key, value, why) of the stage's trainer."""
    parameters, sets = made.base.parameters, _of(made, stage)
    small, large = parameters < _SMALL, parameters >= _LARGE
    rows = sum(item.rows for item in sets)
    few = rows < 2000 and all(item.all_rows for item in sets)
    rates = {"dpo": ("5e-5", "2e-5", "5e-6"), "sft": ("2e-4", "2e-4", "1e-4")}[stage]
    yield "num_train_epochs", 1, ""
    yield "per_device_train_batch_size", 4, ""
    yield "gradient_accumulation_steps", 2 if few else 4, "with the line above: rows per step on one device"
    yield (
        "learning_rate",
        rates[0] if small else rates[2] if large else rates[1],
        "hubkit's choice for an adapter of this size",
    )
    yield "lr_scheduler_type", "cosine", ""
    if stage == "dpo":
        yield "beta", 0.1, ""
    longest = max(item.row_tokens for item in sets)
    yield (
        "max_length",
        _length(longest, made.base.context),
        f"99 % of the rows read have at most {count(longest)} tokens",
    )
    yield "logging_steps", 5 if few else 10, ""


def _length(longest: int, context: int | None) -> int:
    """A length that cuts hardly any row: half as much again, in steps of 128, at most the base's and 4,096."""
    wanted = max(256, -(-longest * 3 // 2 // 128) * 128)
    return min(wanted, context or wanted, 4096)


def _variants(made: Draft) -> Iterator[str]:
    yield "# What is published: for each branch, the stage whose adapter it holds. `main` is updated last."
    yield "variants:"
    if len(made.stages) > 1:
        yield "  # report: published whatever its stop rate is; the card reports it"
        yield "  dpo-v0: {stage: dpo, gate: report, title: DPO only}"
        yield '  main: {stage: sft, title: "DPO, then SFT"}'
    else:
        (only,) = made.stages
        yield f"  main: {{stage: {only}, title: {only.upper()}}}"
    yield ""


def evaluate_lines(base: BaseFacts, hub: str) -> Iterator[str]:
    """The benchmarks, where the Hub has them."""
    yield "# Benchmarks, run by lm-evaluation-harness."
    yield "evaluate:"
    english = not base.language or "en" in base.language
    if hub == "huggingface" and english:
        yield "  # or agieval, bigbench, openllm, or your own tasks in a folder that `include` names"
        yield "  suites: [gpt4all, truthfulqa]"
    else:
        yield "  # [] measures none. Name your own tasks, and their folder as `include`; or, for English where the Hub"
        yield "  # has their datasets, agieval, bigbench, gpt4all, truthfulqa, openllm."
        yield "  suites: []"
    yield "  apply_chat_template: true"
    yield "  batch_size: 8"
    yield ""


def _gates(made: Draft) -> Iterator[str]:
    stage = made.stages[-1]
    sets = _of(made, stage)
    rows, answer = sum(item.rows for item in sets), max(item.answer_tokens for item in sets)
    prompts = max([size for size in (32, 64, 128, 256) if size <= rows // 6], default=16)
    tokens = min(1024, max(192, -(-4 * answer // 64) * 64))
    yield "gates:"
    yield "  # the share of greedy answers that end within `max_new_tokens`, on prompts that are never trained on"
    yield "  stop_rate:"
    yield f"    prompts_from: {_SETS[stage]}"
    yield f"    prompts: {prompts}"
    yield f"    max_new_tokens: {tokens}  # 99 % of the answers in the data have at most {count(answer)} tokens"
    yield "    at_least: base - 0.02  # not worse than the base"
    yield ""


def card_lines(base: BaseFacts, repo: str) -> Iterator[str]:
    """The words of the card, as far as they are known."""
    yield "# What only a person can write on the card. Without `summary` it says what was trained on what."
    yield "card:"
    yield f"  title: {value_text(repo.partition('/')[2])}"
    yield "  # authors: [your name]"
    yield "  # contact: an e-mail address or a URL"
    yield "  # source: URL of this recipe, such as its git repo"
    yield "  # year: that of the release, for the citation"
    yield "  # summary: what the model is and what it is good for, in one or two sentences"
    yield "  # What it is for and what it is not good for: put what you know in place of these sentences."
    yield "  intended_use: >-"
    yield "    Answers of the kind that its training data shows, and a starting point for further training."
    yield "  limitations: >-"
    yield "    It can state false things as if they were facts, and nobody has tested it for safety."
    yield "    Check its answers before you rely on them."
    if base.language:
        yield f"  language: [{', '.join(value_text(code) for code in base.language)}]  # from the base's card"
    else:
        yield "  language: []  # the base's card states none"
    yield ""


def space_lines(base: BaseFacts, repo: str, variants: int) -> Iterator[str]:
    """The Space, where free hardware is enough for that many variants."""
    weights = base.parameters * 2 * variants
    if weights > _FREE_CPU_BYTES:
        yield "# No Space: these weights need hardware that costs money. With one:"
        yield f"# space: {{repo: {space_repo(repo)}, hardware: a10g-small}}"
        return
    yield "# The Gradio Space in which people try the variants. Remove it to deploy none."
    yield "space:"
    yield f"  repo: {value_text(space_repo(repo))}"


def words(text: str) -> str:
    """``text`` of strangers, for a comment: one line of printable characters."""
    return " ".join(printable(text).split())[:200]


def value_text(value: str | None) -> str:
    """``value`` as YAML, quoted where it would be read as anything else."""
    import yaml

    text = value or ""
    if re.fullmatch(r"[A-Za-z0-9][\w./-]*", text, re.ASCII) and parse_yaml(text, "")[0] == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=False)).strip()


def facts_of(value: Mapping[str, Any]) -> tuple[BaseFacts, tuple[DataFacts, ...]]:
    """The facts from their JSON (``dataclasses.asdict``)."""
    base = {**value["base"], "language": tuple(value["base"]["language"])}
    return BaseFacts(**base), tuple(DataFacts(**{**item, "columns": tuple(item["columns"])}) for item in value["data"])
