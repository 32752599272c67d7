"""What `hubkit init` reads from the Hub for a recipe: the base's config and card, and the first rows of the data.

It runs in a child process whose environment names the Hub: the datasets library knows no other way to be told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.bounded_yaml import YamlError, load_bounded
from hubkit.core.errors import BY_EXIT_CODE, HubkitError, RefusedError, UsageError
from hubkit.core.front_matter import find_front_matter
from hubkit.core.libraries import installed
from hubkit.core.licenses import license_problem
from hubkit.core.processes.child import answer_question
from hubkit.core.processes.parent import JobFailed, ask_module
from hubkit.core.target import Target
from hubkit.recipe.draft import BaseFacts, DataFacts, facts_of

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

_SAMPLE = 1000
"""Rows of each dataset that are read."""
_SECONDS = 600
_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""dtypes of safetensors, and the one in which merged weights are published."""


def read_facts(target: Target, base: str, data: Sequence[str]) -> tuple[BaseFacts, tuple[DataFacts, ...]]:
    """The facts about the model repo ``base`` and the dataset repos ``data`` on ``target``'s Hub, or files in ``data``.

    RefusedError for a base or dataset that a release could not use; UsageError for one that is not there.
    """
    missing = [name for name in ("datasets", "tokenizers") if installed(name) is None]
    if missing:
        raise UsageError(
            f"Reading the data needs {', '.join(missing)}, which is not installed.", hint="pip install 'hubkit[train]'"
        )
    request = {"endpoint": target.endpoint, "home": str(target.home), "embedded": target.embedded}
    request = {**request, "base": base, "data": list(data)}
    try:
        answer = ask_module("hubkit.pipeline.model_facts", request, timeout=_SECONDS, environment=target.environment())
    except JobFailed as error:
        last = error.errors.strip().splitlines()[-1:] or [str(error)]
        raise HubkitError(
            f"The base and the data could not be read: {last[0]}", hint="Run the command again."
        ) from None
    if "error" in answer:
        kind = BY_EXIT_CODE.get(answer["exit_code"], RefusedError)
        raise kind(answer["error"], hint=answer["hint"])
    return facts_of(answer)


def _answer(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The child: the facts that are asked for, or the error."""
    target = Target(given["endpoint"], Path(given["home"]), os.environ.get("HF_TOKEN"), embedded=given["embedded"])
    try:
        return _facts(target, given["base"], given["data"])
    except HubkitError as error:
        return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _facts(target: Target, base: str, data: Iterable[str]) -> Mapping[str, Any]:
    from hubkit.hub.client import connect

    hub = connect(target)
    commit = hub.resolve(base, "main")
    about = base_facts(hub, base, commit)
    count = _token_counter(hub.read_listed(base, "tokenizer.json", commit))
    return {"base": asdict(about), "data": [asdict(data_facts(hub, name, count)) for name in data]}


def base_facts(hub: Hub, repo: str, commit: str) -> BaseFacts:
    """What the small files of the model repo say. RefusedError for a repo without config.json or safetensors."""
    config = _json(hub, repo, commit, "config.json")
    files = hub.tree(repo, commit)
    if config is None or not any(name.endswith(".safetensors") and "/" not in name for name in files):
        what = "config.json" if config is None else "safetensors weights"
        raise RefusedError(
            f"{repo} has no {what}.", hint="Name a transformers model with safetensors weights as the base."
        )
    parameters = hub.parameters(repo, commit)
    stored = max(parameters, key=lambda name: parameters[name])
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    context = text.get("max_position_embeddings")
    card = _front_matter(hub, repo, commit)
    license, name, link = (_text(card.get(key)) for key in ("license", "license_name", "license_link"))
    if license_problem(license) or (license == "other" and not (name and link)):
        license = None
    return BaseFacts(
        repo=repo,
        architecture=str((config.get("architectures") or [config.get("model_type") or "A model"])[0]),
        parameters=sum(parameters.values()),
        dtype=_DTYPES.get(stored, "bfloat16"),
        context=context if isinstance(context, int) and context > 0 else None,
        license=license,
        license_name=name,
        license_link=link,
        language=tuple(_languages(card.get("language"))),
        has_template=_has_template(hub, repo, commit, files),
    )


def _has_template(hub: Hub, repo: str, commit: str, files: Iterable[str]) -> bool:
    if "chat_template.jinja" in files or "chat_template.json" in files:
        return True
    return bool((_json(hub, repo, commit, "tokenizer_config.json") or {}).get("chat_template"))


def _json(hub: Hub, repo: str, commit: str, name: str) -> dict[str, Any] | None:
    body = hub.read_listed(repo, name, commit)
    try:
        found = load_json(body) if body is not None else None
    except JsonError as error:
        raise RefusedError(f"{name} of {repo} {error}.") from error
    return found if isinstance(found, dict) else None


def _front_matter(hub: Hub, repo: str, commit: str) -> dict[str, Any]:
    block = find_front_matter((hub.read_listed(repo, "README.md", commit) or b"").decode("utf-8", "replace"))
    try:
        found = load_bounded(block.text) if block else None
    except YamlError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.strip() or None if isinstance(value, str) else None


def _languages(value: Any) -> Iterator[str]:
    from hubkit.core.card_metadata import language_problem

    listed = value if isinstance(value, list) else [value] if value else []
    for code in listed:
        code = "no" if code is False else code
        if language_problem(code) is None:
            yield str(code)


Counter = Callable[[str], int]


def _token_counter(tokenizer: bytes | None) -> Counter:
    """How many tokens a text has; estimated from its bytes where the base has no tokenizer.json."""
    if tokenizer is not None:
        from tokenizers import Tokenizer

        try:
            known = Tokenizer.from_str(tokenizer.decode("utf-8"))
        except Exception:  # tokenizers raises nothing more exact
            pass
        else:
            return lambda text: len(known.encode(text, add_special_tokens=False).ids)
    return lambda text: len(text.encode("utf-8", "replace")) // 3 + 1


def names_file(name: str) -> bool:
    """Whether ``name`` is meant as a file of data, and not as a repo on a Hub."""
    from hubkit.training.data.files import kind_of

    return kind_of(Path(name)) is not None or set("*?[") & set(name) != set() or name.startswith((".", "/", "~"))


def data_facts(hub: Hub, name: str, tokens: Counter) -> DataFacts:
    """What the first rows of the repo or file ``name`` show. RefusedError for one without a row to train on."""
    from hubkit.recipe.models import Source
    from hubkit.training.data import loading, mappings
    from hubkit.training.data.files import matching

    local = names_file(name)
    if local:
        first = loading.first_rows_of_files(matching(Path(), Source(file=name)), _SAMPLE)
    else:
        first = loading.first_rows(hub, name, _SAMPLE)
    mapping = mappings.find(None, first.columns, name)
    lengths, answers = [], []
    for _, _, made, _ in mapping.read(first.rows):
        if made is None:
            continue
        sides = [
            sum(tokens(item["content"]) for item in made[side]) for side in made if side not in ("prompt", "tools")
        ]
        prompt = sum(tokens(item["content"]) + _TURN for item in made["prompt"])
        lengths.append(prompt + max(sides) + _TURN)
        answers.append(sides[0])
    if not lengths:
        raise RefusedError(f"No row of {name} can be read by the mapping {mapping.name!r}.", hint="Look at its rows.")
    return DataFacts(
        repo=name,
        local=local,
        split=first.split,
        columns=first.columns,
        mapping=mapping.name,
        kind=mapping.kind,
        rows=len(first.rows),
        all_rows=not first.more,
        row_tokens=_most(lengths),
        answer_tokens=_most(answers),
    )


_TURN = 8
"""Tokens that a chat template adds to a message."""


def _most(lengths: Sequence[int]) -> int:
    """The length that 99 of 100 do not exceed."""
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


if __name__ == "__main__":
    answer_question(_answer)
