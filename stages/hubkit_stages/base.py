"""Pin the base model to a commit; choose its chat template, end-of-turn token and padding token.

    base: {repo: teknium/OpenHermes-2.5-Mistral-7B, revision: main, dtype: bfloat16}
    chat: {template: base}      # or chatml, llama-3, mistral ...: see hubkit/models/chat/library.py; or a file

No weights are loaded. Writes a :class:`hubkit.models.base.PinnedBase`: ``base.json``, ``chat_template.jinja``
(published) and ``training_template.jinja`` (the same, with TRL's ``{% generation %}`` if it has any).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted
from hubkit.models import meta
from hubkit.models.base import BaseFinding, PinnedBase, write_templates
from hubkit.models.base_files import read_base
from hubkit.models.chat import agreement, control, golden, library, rendering
from hubkit.models.load import PinnedRepo, load_config, load_tokenizer
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe
from hubkit.recipe.provided import ProvidedRepos
from hubkit.recipe.stage import BaseRepo, CheckContext, Context, Scope, StageResult

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

VERSION = 5
SHAPED_BY = ("transformers", "tokenizers")

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}


@dataclass(frozen=True)
class Settings:
    """``template`` is a setting of the recipe, or the file that it names; ``provided``: a recipe creates the repo."""

    repo: str
    revision: str
    template: str | NamedFile
    provided: bool

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        name = recipe.chat.template
        template = NamedFile.beside(scope.recipe_folder, name) if library.names_file(name) else name
        return cls(recipe.base.repo, recipe.base.revision, template, recipe.provide is not None)


@dataclass(frozen=True)
class Inputs:
    """The repos that were created first, if any."""

    provided: ProvidedRepos | None


Output = PinnedBase


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Check that the repo exists, has safetensors weights, and that the tokenizer fits the embeddings.

    Reads small files only.
    """
    from hubkit.hub.client import connect

    settings = ctx.settings
    if isinstance(settings.template, NamedFile):
        file = settings.template.path
        if problem := library.setting_problem(file.name, file.parent):
            yield Finding("error", f"chat.template: {problem}.", library.choices(), exit_code=2)
    hub = connect(ctx.target)
    try:
        if settings.provided and ctx.target.embedded and not hub.repo_exists(settings.repo):
            return
        yield from _unfit(hub, settings.repo, hub.resolve(settings.repo, settings.revision))
        yield from _unusable(ctx)
    except HubkitError as error:
        yield Finding("error", f"base: {error.message}", error.hint, error.exit_code)


def _unusable(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Why the base cannot be built or asked: its architecture, its tokenizer, its chat template."""
    settings = ctx.settings
    files = read_base(ctx.target, BaseRepo(settings.repo, settings.revision))
    if files is None or files.config is None:
        return
    if not files.has_tokenizer:
        yield Finding("error", f"base: {settings.repo} has no tokenizer.", "Use a base whose repo has one.")
    elif settings.template == "base" and not files.has_chat_template:
        hint = f"Set chat.template in the recipe. {library.choices()}"
        yield Finding("error", f"base: {settings.repo} has no chat template.", hint)
    try:
        meta.facts_of(files.config)
    except meta.UnknownError as error:
        yield Finding("warning", f"base: the adapters were not compared with it; {error.message}.")


def _unfit(hub: Hub, repo: str, commit: str) -> Iterator[Finding]:
    """Why the repo at ``commit`` cannot be the base of a release."""
    names = hub.tree(repo, commit)
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        yield Finding(
            "error",
            f"base: {repo} has no safetensors weights at {commit[:8]}.",
            "Convert the weights to safetensors; hubkit does not load pickles.",
        )
    config, tokenizer = (_json(hub, repo, commit, name) for name in ("config.json", "tokenizer.json"))
    if config is None:
        yield Finding(
            "error", f"base: {repo} has no config.json at {commit[:8]}.", "Name a transformers model as the base."
        )
    elif tokenizer is not None and (problem := vocabulary_problem(config, tokenizer)):
        yield Finding("error", f"base: {repo}: {problem}", "Use the tokenizer and the weights of the same model.")


def _json(hub: Hub, repo: str, commit: str, name: str) -> dict[str, Any] | None:
    body = hub.read_listed(repo, name, commit)
    if body is None:
        return None
    try:
        found = load_json(body)
    except JsonError as error:
        raise RefusedError(f"{name} of {repo} {error}.") from error
    return found if isinstance(found, dict) else None


def vocabulary_problem(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """Why ids of ``tokenizer`` (a ``tokenizer.json``) would fall outside the embeddings of ``config``; else None."""
    size = agreement.setting(config, "vocab_size")
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    known = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary or ()))
    ids = [*known, *(item["id"] for item in tokenizer.get("added_tokens") or ())]
    if isinstance(size, int) and ids and max(ids) >= size:
        return f"the tokenizer has the id {count(max(ids))}, but the model has {counted(size, 'embedding')}."
    return None


def run(ctx: Context[Settings, Inputs]) -> StageResult[PinnedBase]:
    """Write ``base.json`` and the two templates."""
    from hubkit.hub.client import connect

    settings, hub = ctx.settings, connect(ctx.target)
    repo, commit = settings.repo, hub.resolve(settings.repo, settings.revision)
    ctx.report(f"{repo} is at {commit[:8]}", None)
    for finding in _unfit(hub, repo, commit):
        raise RefusedError(finding.message, hint=finding.hint)
    source = PinnedRepo(repo, revision=commit, endpoint=hub.endpoint)
    config, tokenizer = load_config(source), load_tokenizer(source)
    own = tokenizer.chat_template
    chosen = _chosen(settings.template, tokenizer)
    generation = _json(hub, repo, commit, "generation_config.json")
    agreed = derive_end_of_turn(chosen, tokenizer, config.to_dict(), generation)
    findings = [*chosen.findings, *agreed.findings, *_of_padding(tokenizer.pad_token, agreed)]
    tokenizer.chat_template = chosen.shipped
    write_templates(ctx.out, published=chosen.shipped, training=chosen.training)
    is_own = chosen.training == (own.get("default") if isinstance(own, dict) else own)
    pinned = _pinned(ctx, hub, commit, config, tokenizer, agreed, is_own=is_own, findings=findings)
    warnings = tuple(item.message for item in findings)
    figure = f"{commit[:8]}  end-of-turn token {pinned.end_of_turn.token}"
    return StageResult(pinned, figure, warnings, {"commit": commit})


def _chosen(template: str | NamedFile, tokenizer: Any) -> library.ChatTemplateChoice:
    setting = str(template.path) if isinstance(template, NamedFile) else template
    return library.choose(setting, tokenizer, Path())


def _pinned(
    ctx: Context[Settings, Inputs],
    hub: Hub,
    commit: str,
    config: Any,
    tokenizer: Any,
    agreed: agreement.Agreement,
    *,
    is_own: bool,
    findings: list[Finding],
) -> PinnedBase:
    """The base as later steps know it. ``tokenizer`` has the published chat template."""
    assert agreed.end_of_turn is not None and agreed.pad is not None
    from hubkit.training.data.loading import card_licence

    settings = ctx.settings
    parameters = hub.parameters(settings.repo, commit)
    stored = max(parameters, key=lambda name: parameters[name])
    template: str = tokenizer.chat_template
    return PinnedBase(
        repo=settings.repo,
        commit=commit,
        revision=settings.revision,
        dtype=_DTYPES.get(stored, stored.lower()),
        parameters=sum(parameters.values()),
        architecture=(config.architectures or [type(config).__name__])[0],
        vocab_size=config.get_text_config().vocab_size,
        end_of_turn=agreed.end_of_turn,
        eos_token=tokenizer.eos_token,
        pad_token=agreed.pad.token,
        pad_reason=agreed.pad.why,
        own_pad_token=tokenizer.pad_token,
        chat_template=settings.template if isinstance(settings.template, str) else "file",
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        chat_template_is_own=is_own,
        control_tokens=tuple(control.control_tokens(tokenizer, template)),
        licence=card_licence(hub, settings.repo, commit, "model"),
        findings=tuple(BaseFinding(item.level, item.message) for item in findings),
        folder=ctx.out,
    )


def derive_end_of_turn(
    chosen: library.ChatTemplateChoice, tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any] | None
) -> agreement.Agreement:
    """Derive the end-of-turn token and the padding token of ``chosen``, and find what is wrong with the base's files.

    Raises RefusedError if the template exceeds a limit, refuses a conversation without a system message, drops message
    text, never closes an answer, or renders differently without its ``{% generation %}`` marks. Disagreements in the
    base's config files are only reported; the merge fixes them.
    """
    tokens = agreement.Tokens.of(tokenizer)
    found = agreement.agree(chosen.shipped, tokens, config, generation)
    agreement.refuse(found.template)
    if chosen.training != chosen.shipped:
        requests = golden.golden_requests()
        one, other = (
            rendering.render_untrusted(text, requests, variables=tokens.special)
            for text in (chosen.training, chosen.shipped)
        )
        different = [name for name, a, b in zip(golden.golden_names(), one, other, strict=True) if a != b]
        if different:
            raise RefusedError(
                f"The chat template renders differently without {{% generation %}} ({different[0]}).",
                hint="Put {% generation %} around whole expressions and change no variable inside it.",
            )
    return found


def _of_padding(own: str | None, agreed: agreement.Agreement) -> Iterator[Finding]:
    """A note where padding is not done with the tokenizer's ``own`` padding token."""
    if agreed.pad and agreed.pad.token != own:
        why = f"is the end-of-turn token {own}" if own else "is missing"
        yield Finding(
            "note", f"The base's padding token {why}; the release pads with {agreed.pad.token} ({agreed.pad.why})."
        )
