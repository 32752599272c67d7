"""Pin the base model to a commit; settle its chat template, turn end and padding token.

    base: {repo: teknium/OpenHermes-2.5-Mistral-7B, revision: main, dtype: bfloat16}
    chat: {template: base}

Nothing of the weights is loaded. What later steps need stands in ``base.json`` and ``chat_template.jinja``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hubkit.errors import HubkitError, RefusedError
from hubkit.files import write_atomic, write_json
from hubkit.run import Artifact, Context, Finding

if TYPE_CHECKING:
    from hubkit.hub import Hub
    from hubkit.turn_end import TurnEnd

VERSION = 2
SHAPED_BY = ("transformers", "tokenizers")

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}
_MEND = "Mend the template, or set another one as chat.template in the recipe."


def check(ctx: Context) -> Iterator[Finding]:
    """Is the repo there, are its weights safetensors, does its vocabulary fit: read from small files only."""
    from hubkit.hub import connect

    base, template = ctx.recipe.base, ctx.recipe.chat.template
    if template not in {"base", "chatml"} and not (ctx.recipe_folder / template).is_file():
        yield Finding(
            "error",
            f"chat.template: there is no file {template!r} beside the recipe.",
            "Write 'base', 'chatml', or a Jinja file.",
            exit_code=2,
        )
    hub = connect(ctx.target)
    try:
        if ctx.recipe.provide and ctx.target.embedded and not hub.repo_exists(base.repo):
            return
        yield from _unfit(hub, base.repo, hub.resolve(base.repo, base.revision))
    except HubkitError as error:
        yield Finding("error", f"base: {error.message}", error.hint, error.exit_code)


def _unfit(hub: Hub, repo: str, commit: str) -> Iterator[Finding]:
    """Why the repo at ``commit`` cannot be the base of a release."""
    names = hub.tree(repo, commit)
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        yield Finding(
            "error",
            f"base: {repo} has no safetensors weights at {commit[:8]}.",
            "hubkit loads no pickles; convert the weights first.",
        )
    config, tokenizer = (_json(hub, repo, commit, name) for name in ("config.json", "tokenizer.json"))
    if config is None:
        yield Finding("error", f"base: {repo} has no config.json at {commit[:8]}.", "Is it a transformers model?")
    elif tokenizer is not None and (problem := vocabulary_problem(config, tokenizer)):
        yield Finding("error", f"base: {repo}: {problem}", "Take the tokenizer and the weights from the same model.")


def _json(hub: Hub, repo: str, commit: str, name: str) -> dict[str, Any] | None:
    body = hub.read_file(repo, name, commit)
    if body is None:
        return None
    try:
        found = json.loads(body)
    except ValueError as error:
        raise RefusedError(f"{name} of {repo} is not valid JSON: {error}.") from error
    return found if isinstance(found, dict) else None


def vocabulary_problem(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """Why ids of ``tokenizer`` (a ``tokenizer.json``) would fall outside the embeddings of ``config``; else None."""
    size = config.get("vocab_size")
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    known = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary or ()))
    ids = [*known, *(item["id"] for item in tokenizer.get("added_tokens") or ())]
    if isinstance(size, int) and ids and max(ids) >= size:
        return f"the tokenizer has the id {max(ids):,}, but the model has {size:,} embeddings."
    return None


def run(ctx: Context) -> Artifact:
    """Make ``base.json`` and ``chat_template.jinja``."""
    from transformers import AutoConfig, AutoTokenizer

    from hubkit import chat, turn_end
    from hubkit.data.loading import card_licence
    from hubkit.hub import connect
    from hubkit.wire import translated

    base, hub = ctx.recipe.base, connect(ctx.target)
    commit = hub.resolve(base.repo, base.revision)
    ctx.report(f"{base.repo} is at {commit[:8]}", None)
    for finding in _unfit(hub, base.repo, commit):
        raise RefusedError(finding.message, hint=finding.hint)
    with translated(hub.endpoint, base.repo, commit):
        config = AutoConfig.from_pretrained(base.repo, revision=commit)
        tokenizer = AutoTokenizer.from_pretrained(base.repo, revision=commit)
    own = tokenizer.chat_template
    tokenizer.chat_template = chat.template_for(ctx.recipe.chat.template, tokenizer, ctx.recipe_folder)
    findings = tried(tokenizer.chat_template, tokenizer.special_tokens_map)
    end = turn_end.find(tokenizer)
    generation = _json(hub, base.repo, commit, "generation_config.json")
    findings += chat.disagreements(end, chat.ends_of(tokenizer, config.to_dict(), generation))
    weights = hub.ask(lambda: hub.api.get_safetensors_metadata(base.repo, revision=commit), repo=base.repo)
    stored = max(weights.parameter_count, key=lambda name: weights.parameter_count[name])
    write_atomic(ctx.out / "chat_template.jinja", tokenizer.chat_template)
    told = {
        "repo": base.repo,
        "commit": commit,
        "revision": base.revision,
        "dtype": _DTYPES.get(stored, stored.lower()),
        "parameters": sum(weights.parameter_count.values()),
        "architecture": (config.architectures or [type(config).__name__])[0],
        "vocab_size": config.vocab_size,
        "turn_end": end.to_json(),
        "eos_token": tokenizer.eos_token,
        "pad_token": padding(tokenizer, end),
        "own_pad_token": tokenizer.pad_token,
        "chat_template_sha256": hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        "chat_template_is_own": tokenizer.chat_template == own,
        "licence": card_licence(hub, base.repo, commit, "model"),
        "findings": [{"level": item.level, "message": item.message} for item in findings],
    }
    write_json(ctx.out / "base.json", told)
    said = [item.message for item in findings]
    return ctx.artifact(figure=f"{commit[:8]}  turn end {end.token}", commit=commit, warnings=said)


def tried(template: str, tokens: Mapping[str, Any]) -> list[Finding]:
    """What is to be said of ``template`` after it rendered the probe and the golden conversations, under limits.

    ``tokens`` are the special tokens that it may name. RefusedError when it passes a limit, refuses a conversation
    without a system message, or loses what was said; only after that is it rendered in this process.
    """
    from hubkit import chat, turn_end

    variables = {name: value for name, value in tokens.items() if isinstance(value, str)}
    requests = [(turn_end.PROBE, False), *chat.golden_requests()]
    probe, *golden = chat.render_untrusted(template, requests, variables=variables)
    if probe.text is None:
        raise RefusedError(
            f"The chat template cannot render a user and an assistant message: {probe.problem}.", hint=_MEND
        )
    findings = chat.golden_findings(golden)
    for finding in findings:
        if finding.level == "error":
            raise RefusedError(finding.message, hint=finding.hint or _MEND)
    return findings


def padding(tokenizer: Any, end: TurnEnd) -> str:
    """A token to pad with that is not the turn end, so that no trainer masks the turn end as padding.

    The tokenizer's own when it will do, else its unknown, beginning or end token. RefusedError when all are the
    turn end.
    """
    for token in (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token):
        if token is not None and tokenizer.convert_tokens_to_ids(token) != end.id:
            return str(token)
    raise RefusedError(
        f"The tokenizer has no token to pad with but its turn end {end.token}.",
        hint="Give the base a padding token of its own; one that pads is masked out of the loss.",
    )
