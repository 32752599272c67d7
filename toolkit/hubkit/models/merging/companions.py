"""The small files beside merged weights: configs made fit for publishing, tokenizer files, chat template."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import RefusedError
from hubkit.core.files import write_atomic, write_json
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.chat.agreement import eos_ids, setting, special_tokens, text_part
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.readable import config_for_all, tokenizer_for_all

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
_SWITCHED = {"use_cache": True, "output_router_logits": False}
"""Keys of config.json that trainers change for their own sake, with their defaults. With the logits of its router a
mixture of experts computes a loss when it answers, and fails."""
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
PATTERNS = ("model*.safetensors", "model.safetensors.index.json", "*config.json", TEMPLATE, *TOKENIZER_FILES)
"""What of a base model's repo is needed to merge into it."""
_LEFT_OUT = frozenset({"_name_or_path", "auto_map", "dtype", "torch_dtype"})
"""Keys of the base's config.json that merged weights do not have, or have with another value."""
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model.safetensors", TEMPLATE, *TOKENIZER_FILES)
"""What of an adapter's repo is needed to merge it."""
_SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Settings that only sampling uses, with the value at which they do nothing (transformers' GenerationConfig)."""


def fetch_base(target: Target, repo: str, commit: str) -> Path:
    """The files of ``repo`` at ``commit`` on ``target``'s Hub that a merge needs; their folder.

    They are in the cache of this process (``HF_HUB_CACHE``), where transformers finds them too. Raises RemoteError
    when the Hub cannot be reached, UsageError when it has no such repo.
    """
    return connect(target).download(repo, commit, patterns=PATTERNS)


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in ``folder/name``; empty when there is no such file, RefusedError when it is not one."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found = load_json(path.read_bytes())
    except JsonError as error:
        raise RefusedError(f"{name} {error}.") from error
    if not isinstance(found, dict):
        raise RefusedError(f"{name} is not a JSON object.")
    return found


def model_config(base: Mapping[str, Any], dtype: str, end_of_turn: EndOfTurn | None) -> dict[str, Any]:
    """``base`` (config.json) for merged weights in ``dtype``: no path of a machine, no quantization.

    It is written for older transformers, too (:func:`hubkit.models.merging.readable.config_for_all`).
    ``auto_map`` (code for older transformers, as Phi-3 and Falcon have it) is left out: that code is not published.
    Raises RefusedError for a base whose own files are quantized or that needs code of its own.
    """
    if base.get("quantization_config"):
        raise RefusedError(
            "The base's own files are quantized; the original weights cannot be recovered by merging.",
            hint="Use the unquantized model as the base.",
        )
    if base.get("auto_map") and not _is_known(base.get("model_type")):
        raise RefusedError(
            "The base needs Python code of its own (auto_map in config.json), which is not published here.",
            hint="Choose a base whose architecture transformers knows.",
        )
    made = {key: value for key, value in base.items() if key not in _LEFT_OUT}
    made["dtype"] = dtype
    if end_of_turn and end_of_turn.id not in eos_ids(base):
        made = with_setting(made, "eos_token_id", end_of_turn.id)
    return config_for_all(made)


def _is_known(model_type: Any) -> bool:
    """Whether the installed transformers has the architecture itself."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def with_setting(config: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """``config`` with ``value`` for ``name``, in the part where the settings of its text model are."""
    part = text_part(config)
    if part is None or config.get(name) is not None:
        return {**config, name: value}
    return {**config, part: {**config[part], name: value}}


def generation_config(
    base: Mapping[str, Any], config: Mapping[str, Any], end_of_turn: EndOfTurn | None
) -> dict[str, Any]:
    """``base`` (generation_config.json, may be empty) so that generation stops at ``end_of_turn`` and saving works.

    Sampling settings without ``do_sample`` make transformers refuse to save the file; whoever wrote them meant to
    sample, so ``do_sample`` becomes true.
    """
    made = {key: value for key, value in base.items() if key != "_from_model_config"}
    for key in ("bos_token_id", "pad_token_id"):
        if key not in made and isinstance(setting(config, key), int):
            made[key] = setting(config, key)
    ends = list(dict.fromkeys([*([end_of_turn.id] if end_of_turn else []), *(eos_ids(base) or eos_ids(config))]))
    if ends:
        made["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    samples = [key for key, neutral in _SAMPLING.items() if made.get(key) not in {None, neutral}]
    if samples and made.get("do_sample") is not True:
        made["do_sample"] = True
    return made


def write_companions(
    base: Path,
    out: Path,
    *,
    dtype: str,
    chat_template: str | None = None,
    end_of_turn: EndOfTurn | None = None,
    pad_token: str | None = None,
    changes: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
    trained: Path | None = None,
) -> None:
    """Write config, generation config, tokenizer files and chat template of merged weights into ``out``.

    ``chat_template`` replaces the base's own. It is written twice, the same text: as chat_template.jinja, which today's
    transformers reads first and alone saves, and as ``chat_template`` in tokenizer_config.json, the only place where
    older transformers and programs such as text-generation-inference look. ``pad_token`` becomes the padding token
    of tokenizer and configs when the base has none, or pads with ``end_of_turn``: whoever trains on would mask the
    end-of-turn token. None keeps what the base has. ``changes`` are keys of config.json that the merge itself changes,
    such as ``vocab_size``. ``tokenizer`` is a folder whose tokenizer, and template if it has one, replace the base's.
    ``trained`` is the model that was trained to be ``base``: its generation_config.json is taken where ``base`` has
    none. Of its config.json is kept what trainers switch for themselves (``_SWITCHED``), and where ``base`` has no
    tokenizer the ids of special tokens, which they overwrite.
    """
    config = read_settings(base, "config.json")
    if not config:
        raise RefusedError(f"There is no config.json in the base {base.name}.")
    if trained:
        names = (*_SWITCHED, *(() if tokenizer_of(base) else _IDS))
        config = _with_settings_of(read_settings(trained, "config.json"), config, names)
    answers = read_settings(base, _GENERATION) or (read_settings(trained, _GENERATION) if trained else {})
    generating = generation_config(answers, config, end_of_turn)
    config = {**model_config(config, dtype, end_of_turn), **(changes or {})}
    words = tokenizer or base
    if _pads_well(words, end_of_turn):
        pad_token = None
    if pad_token and (number := _token_id(words, pad_token)) is not None:
        config, generating = with_setting(config, "pad_token_id", number), {**generating, "pad_token_id": number}
    write_json(out / "config.json", config)
    write_json(out / _GENERATION, generating)
    if tokenizer:
        _refuse_larger(tokenizer, config, _SAVE_WEIGHTS if trained else _SAVE_ADAPTER)
    _write_tokenizer(words, out, chat_template, pad_token)
    if chat_template:
        write_atomic(out / TEMPLATE, chat_template)
    else:
        _keep_template(words, base, out)


def _with_settings_of(original: Mapping[str, Any], config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """``config`` with what ``original`` has for ``names``: what a trainer changed is changed back."""
    made = dict(config)
    for name in names:
        value = setting(original, name)
        if value is None and setting(made, name) is not None:
            value = _SWITCHED.get(name)
        if value != setting(made, name):
            made = with_setting(made, name, value)
    return made


def _write_tokenizer(words: Path, out: Path, chat_template: str | None, pad_token: str | None) -> None:
    """The files of the tokenizer in ``words``, with another template or padding token where one is given."""
    for name in TOKENIZER_FILES:
        if (words / name).is_file():
            shutil.copyfile(words / name, out / name)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = read_settings(words, name)
        fixed = tokenizer_for_all(settings) if name == "tokenizer_config.json" else dict(settings)
        fixed.pop("name_or_path", None)
        if chat_template and (name == "tokenizer_config.json" or "chat_template" in settings):
            fixed["chat_template"] = chat_template
        if settings and pad_token:
            fixed["pad_token"] = pad_token
        if fixed != settings:
            write_json(out / name, fixed)


def _pads_well(words: Path, end_of_turn: EndOfTurn | None) -> bool:
    """Whether the tokenizer in ``words`` has a padding token that is not ``end_of_turn``."""
    names = ("special_tokens_map.json", "tokenizer_config.json")
    own = special_tokens({key: value for name in names for key, value in read_settings(words, name).items()})
    pad = own.get("pad_token")
    return pad is not None and not (end_of_turn and pad == end_of_turn.token)


def _keep_template(words: Path, base: Path, out: Path) -> None:
    """The template of the tokenizer in ``words``; if that has none at all, the one of ``base``. In both places."""
    own = read_settings(words, "tokenizer_config.json").get("chat_template")
    if (words / TEMPLATE).is_file():
        shutil.copyfile(words / TEMPLATE, out / TEMPLATE)
    elif not own and (base / TEMPLATE).is_file():
        shutil.copyfile(base / TEMPLATE, out / TEMPLATE)
    elif not own and isinstance(text := read_settings(base, "tokenizer_config.json").get("chat_template"), str):
        write_atomic(out / TEMPLATE, text)
    settings = read_settings(out, "tokenizer_config.json")
    if settings and (out / TEMPLATE).is_file() and "chat_template" not in settings:
        text = (out / TEMPLATE).read_text("utf-8")  # where older transformers, and transformers.js, look for it
        write_json(out / "tokenizer_config.json", {**settings, "chat_template": text})


def own_dtype(base: Path) -> str:
    """The dtype of the weights in ``base`` by its config.json, if models are published in it; float32 otherwise."""
    config = read_settings(base, "config.json")
    found = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return found if found in {"bfloat16", "float16"} else "float32"


def tokenizer_of(adapter: Path) -> Path | None:
    """``adapter`` if it has a tokenizer of its own."""
    whole = any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"))
    return adapter if whole and (adapter / "tokenizer_config.json").is_file() else None


_SAVE_ADAPTER = "Save the adapter again with its resized embeddings: save_pretrained(save_embedding_layers=True)."
_SAVE_WEIGHTS = "Save the weights again with the tokenizer and the embeddings that they were trained with."


def _refuse_larger(tokenizer: Path, config: Mapping[str, Any], hint: str) -> None:
    """Refuse a tokenizer with more tokens than the model has: it was made for embeddings that were resized."""
    words = read_settings(tokenizer, "tokenizer.json")
    model, text = words.get("model"), config.get("text_config")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [item.get("id") for item in words.get("added_tokens") or () if isinstance(item, dict)]
    rows = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    last = max((number for number in ids if type(number) is int), default=0)
    if type(rows) is int and last >= rows:
        raise RefusedError(
            f"The tokenizer in {tokenizer.name or tokenizer} has the token id {last:,}, and the model {rows:,} tokens.",
            hint=hint,
        )


def _token_id(folder: Path, token: str) -> int | None:
    """The id of the added token ``token`` of the tokenizer in ``folder``; None when its files do not tell."""
    decoder = read_settings(folder, "tokenizer_config.json").get("added_tokens_decoder") or {}
    ids: dict[Any, Any] = {
        item.get("content"): int(number)
        for number, item in decoder.items()
        if isinstance(item, Mapping) and number.isdecimal()
    }
    if token not in ids:
        listed = read_settings(folder, "tokenizer.json").get("added_tokens") or ()
        ids |= {item.get("content"): item.get("id") for item in listed if isinstance(item, Mapping)}
    number = ids.get(token)
    return number if isinstance(number, int) else None
