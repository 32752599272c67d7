"""Merge a variant's adapter into the base, and make of it the root files of the variant's branch.

    base: {repo: teknium/OpenHermes-2.5-Mistral-7B, dtype: bfloat16}      # dtype: of the merged weights

The weights are screened at once: a model that cannot be published is not measured first. The tokenizer, the template
and the two configs must agree on where an answer ends, and make of conversations the token ids that the trainer saw.

Makes: ``model/`` (weights, configs, tokenizer, chat template) and ``merge.json``; its ``finite`` and ``fits`` spare the
publish step a second look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hubkit.checks.screening import architecture, screen
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted, size
from hubkit.models import chat, merging
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.tensors import INDEX
from hubkit.recipe.stage import Artifact, Context

VERSION = 2
SHAPED_BY = ("torch", "transformers", "tokenizers")


def check(ctx: Context) -> Iterator[Finding]:
    """Whether the adapters of the recipe can be merged, and whether the base's files allow it."""
    from hubkit.hub.client import connect

    for name in ctx.recipe.chain(ctx.variant.stage):
        lora = ctx.recipe.stages[name].lora
        if said := merging.unmergeable({"peft_type": "LORA", **lora}):
            yield Finding(
                "error",
                f"stages.{name}.lora: such an adapter cannot be merged: {said}.",
                "Train it without that.",
                exit_code=2,
            )
    base, hub = ctx.recipe.base, connect(ctx.target)
    try:
        if ctx.recipe.provide and ctx.target.embedded and not hub.repo_exists(base.repo):
            return
        config = hub.read_file(base.repo, "config.json", hub.resolve(base.repo, base.revision))
        merging.model_config(json.loads(config or b"{}"), base.dtype, None)
    except HubkitError as error:
        yield Finding("error", f"base: {error.message}", error.hint, error.exit_code)
    except ValueError as error:
        yield Finding("error", f"base: config.json of {base.repo} is not valid JSON: {error}.")


def run(ctx: Context) -> Artifact:
    """Make ``model/`` and ``merge.json``."""
    base, adapter = ctx.input("base"), ctx.input("train").path / "adapter"
    known = base.json("base.json")
    settings = merging.read_adapter(adapter).settings
    if (settings.get("base_model_name_or_path"), settings.get("revision")) != (known["repo"], known["commit"]):
        raise RefusedError(
            f"The adapter was trained on {settings.get('base_model_name_or_path')} at {settings.get('revision')}, "
            f"not on {known['repo']} at {known['commit']}.",
            hint="Train it again: run with --fresh.",
        )
    ctx.report(f"fetching {known['repo']}", None)
    report = merging.merge(
        merging.fetch_base(ctx.target, known["repo"], known["commit"]),
        adapter,
        ctx.out / "model",
        dtype=ctx.recipe.base.dtype,
        chat_template=(base.path / "chat_template.jinja").read_text(encoding="utf-8"),
        end_of_turn=EndOfTurn.from_json(known["end_of_turn"]),
        pad_token=known["pad_token"],
        report=ctx.report,
    )
    model = ctx.out / "model"
    ctx.report("holding the template against the configs and the training", None)
    compared = agreed(model, EndOfTurn.from_json(known["end_of_turn"]), ctx.input("train"))
    ctx.report("holding the tensors against config.json", None)
    weights = {name: model / name for name in (*report.files, "config.json", INDEX) if (model / name).is_file()}
    if problems := screen(weights, finite=report.files):
        said = "\n".join(f"  {problem.sentence}" for problem in problems[:20])
        raise RefusedError(f"The merged model must not be published:\n{said}", hint="Mend the base, or choose another.")
    told = {**report.to_json(), "fits": architecture.can_look(), "compared_texts": compared}
    write_json(ctx.out / "merge.json", told)
    tensors = f"{count(report.changed)} of {counted(report.tensors, 'tensor')} changed"
    figure = f"{tensors}, {size(report.bytes)} in {report.dtype}"
    known_digests = {f"model/{name}": item for name, item in report.files.items()}
    return ctx.artifact(known=known_digests, figure=figure, changed=report.changed, bytes=report.bytes)


def agreed(model: Path, end_of_turn: EndOfTurn, train: Artifact) -> int:
    """How many texts of the training the tokenizer in ``model`` writes with the same token ids; 0: none was kept.

    RefusedError when it writes one otherwise, or when the files in ``model`` do not agree on ``end_of_turn``.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = chat.agree(
        tokenizer.chat_template,
        chat.Tokens.of(tokenizer),
        merging.read_settings(model, "config.json"),
        merging.read_settings(model, "generation_config.json"),
    )
    chat.refuse(found.findings, "The merged model's files do not agree: ")
    if found.end_of_turn is None or found.end_of_turn.id != end_of_turn.id:
        raise RefusedError(
            f"The merged model ends a turn with {found.end_of_turn and found.end_of_turn.token!r}, "
            f"not {end_of_turn.token!r}.",
            hint="Nothing can be published so; run with --fresh.",
        )
    if chat.SEEN_FILE not in train.manifest.files:
        return 0
    kept = train.json(chat.SEEN_FILE)
    if different := chat.differences(tokenizer, kept):
        raise RefusedError(
            f"The merged model's tokenizer and template make other tokens than were trained on: {different[0]}.",
            hint="The base's files changed, or a library renders otherwise than before; run with --fresh.",
        )
    return len(kept["golden"]) + len(kept["rows"])
