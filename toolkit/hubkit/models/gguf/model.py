"""What a model folder says that its GGUF file must say too: settings, vocabulary, template, stops. Reads no weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat import eos
from hubkit.models.chat.library import unmarked
from hubkit.models.chat.rendering import render_untrusted
from hubkit.models.gguf.families import Family, family_of, notes, refuse_differences
from hubkit.models.gguf.library import gguf_library
from hubkit.models.gguf.rotary import write_rotary
from hubkit.models.gguf.sizes import refuse_numbers
from hubkit.models.gguf.stops import Stops, missed_note, stops_of
from hubkit.models.gguf.vocabulary import Vocabulary, vocabulary_of
from hubkit.models.load import Source, load_config, load_tokenizer
from hubkit.models.merging.companions import read_settings
from hubkit.models.tensors import Header, read_weights

EMBEDDINGS = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Described:
    """A model as its small files describe it; ``templates`` by name, the usual one is ``default``."""

    folder: Path
    family: Family
    config: Mapping[str, Any]
    vocabulary: Vocabulary
    templates: Mapping[str, str]
    stops: Stops
    notes: tuple[str, ...]

    @property
    def template(self) -> str | None:
        """The chat template; None without one."""
        return self.templates.get("default")


def describe(folder: Path) -> Described:
    """Read the small files of the model in ``folder``.

    UsageError when it is no model folder; RefusedError when its architecture, tokenizer or template cannot be written.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise UsageError(
            f"{folder} has no config.json{', it is an adapter' if adapter else ''}.",
            hint="Merge it into its base first: `hubkit merge BASE ADAPTER -o FOLDER`."
            if adapter
            else "Name the folder of a model, or a repo as namespace/name.",
        )
    written = read_settings(folder, "config.json")
    family, headers = family_of(written), read_weights(folder)
    names = [name for header in headers.values() for name in header.tensors]
    refuse_numbers(written, names)
    config = _completed(folder, written)
    refuse_numbers(config, names)
    refuse_differences(family, config)
    rows = _rows(headers)
    tokenizer = load_tokenizer(folder)
    found = tokenizer.chat_template
    templates = {"default": found} if isinstance(found, str) else dict(found or {})
    templates = {name: unmarked(text) for name, text in templates.items()}
    generation = read_settings(folder, "generation_config.json")
    stops = stops_of(tokenizer, templates.get("default"), config, generation, rows)
    vocabulary = vocabulary_of(tokenizer, rows, stops.every, _rendered(templates.get("default"), tokenizer))
    told = [*notes(family, config), missed_note(stops, tokenizer)]
    return Described(folder, family, config, vocabulary, templates, stops, tuple(item for item in told if item))


def refuse_unwritable(source: Source, written: Mapping[str, Any], template: str | None) -> None:
    """RefusedError when no GGUF file can be written of a model of ``source``'s config and tokenizer.

    Reads no weight, so that it can be asked before they are there. ``written`` is its config.json, ``template`` the
    chat template that will be published. UsageError without the gguf library.
    """
    family = family_of(written)
    refuse_numbers(written, None)
    config = _completed(source, written)
    refuse_numbers(config, None)
    refuse_differences(family, config)
    write_rotary(gguf_library().GGUFWriter(None, family.name), config)
    tokenizer = load_tokenizer(source)
    rendered = _rendered(unmarked(template), tokenizer) if template else None
    vocabulary_of(tokenizer, config["vocab_size"], (), rendered)


def _completed(folder: Source, written: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the defaults of transformers; RefusedError when that cannot read it."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        found = dict(load_config(folder).to_dict())
    except (ValueError, KeyError, TypeError, OSError, ArithmeticError, AttributeError, StrictDataclassError) as error:
        raise RefusedError(
            f"transformers cannot read config.json: {' '.join(str(error).split())[:200]}",
            hint="`hubkit check` says what is wrong with the model.",
        ) from error
    return {**found, "architectures": written.get("architectures")}


def _rows(headers: Mapping[Path, Header]) -> int:
    """Rows of the embeddings: the vocabulary that a file must have, whatever config.json says."""
    for header in headers.values():
        if EMBEDDINGS in header.tensors and (shape := header.tensors[EMBEDDINGS].shape):
            return shape[0]
    raise RefusedError(f"The weights have no {EMBEDDINGS}.", hint="`hubkit check` says what is wrong with the model.")


def _rendered(template: str | None, tokenizer: Any) -> str | None:
    if not template:
        return None
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return render_untrusted(template, [(eos.PROBE, False)], variables=special)[0].text
