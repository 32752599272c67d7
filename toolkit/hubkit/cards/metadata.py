"""The metadata at the head of a card: made by huggingface_hub's own classes, written by a YAML dumper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from hubkit.cards.measured import FORMATS, Measured, Number, value_of
from hubkit.errors import RefusedError


@dataclass(frozen=True)
class Score:
    """One benchmark number for ``model-index``. ``dataset`` is a Hub id, or the task's name for own tasks."""

    task: str
    dataset: str
    config: str | None
    split: str | None
    metric: str
    value: Measured
    shots: Measured


@dataclass(frozen=True)
class Metadata:
    """What a card's metadata says."""

    name: str
    base_model: str
    relation: str
    licence: str
    library: str
    language: Sequence[str]
    datasets: Sequence[str]
    tags: Sequence[str]
    scores: Sequence[Score] = field(default=())


def front_matter(metadata: Metadata) -> tuple[str, dict[str, Any], list[Number]]:
    """The YAML block (without its ``---`` lines), the same as plain values, and the numbers in it.

    Raises RefusedError when the block would not be read back as the same values.
    """
    from huggingface_hub import EvalResult, ModelCardData

    numbers: list[Number] = []

    def said(number: Measured, form: str) -> Any:
        value = value_of(number)
        text = FORMATS[form](value)
        numbers.append(Number(text, None, number.step, number.file, number.pointer, value, form))
        return float(text) if form == "score" else value

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.dataset,
            dataset_name=score.task,
            dataset_config=score.config,
            dataset_split=score.split,
            dataset_args={"num_few_shot": said(score.shots, "plain")},
            metric_type=score.metric,
            metric_name=f"{score.metric} ({score.task})",
            metric_value=said(score.value, "score"),
        )
        for score in metadata.scores
    ]
    card = ModelCardData(
        license=metadata.licence,
        language=list(metadata.language),
        base_model=metadata.base_model,
        base_model_relation=metadata.relation,
        datasets=list(dict.fromkeys(metadata.datasets)),
        library_name=metadata.library,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(metadata.tags)),
        eval_results=results or None,
        model_name=metadata.name if results else None,
    )
    plain: dict[str, Any] = card.to_dict()  # type: ignore[no-untyped-call]
    block = dump_block(plain)
    if read_block(f"---\n{block}\n---\n") != plain:
        raise RefusedError(
            "The card's metadata would not be read back as it was meant.",
            hint="Remove unusual characters from the recipe's tags, languages and licence.",
        )
    return block, plain, numbers


def dump_block(plain: Mapping[str, Any]) -> str:
    """Metadata as YAML, without the ``---`` lines."""
    return yaml.dump(dict(plain), Dumper=_Dumper, sort_keys=False, allow_unicode=True).strip()


# PyYAML's other styles fold these, and the text that is read back is another.
_FOLDED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that writes words with line ends or control characters in double quotes."""


def _word(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _FOLDED.search(text) else None)


_Dumper.add_representer(str, _word)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a ConstructorError when a key stands twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.value[place][0].start_mark
                )
        return super().construct_mapping(node, deep)


def read_block(text: str) -> dict[str, Any] | None:
    """The metadata of the card ``text``; None when it has none. ``yaml.YAMLError`` when it is not YAML.

    The block is found by the pattern of huggingface_hub, which is that of the Hub's server.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.search(text)
    if not found:
        return None
    value = yaml.load(found[2], Loader=_Loader)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise yaml.YAMLError("the metadata is not a mapping of keys")
    return dict(value)


def index_numbers(metadata: Mapping[str, Any]) -> Iterable[float]:
    """Every number under ``model-index``, in order of writing: few-shot counts and metric values."""

    def leaves(value: Any) -> Iterable[float]:
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from leaves(item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield value

    yield from leaves(metadata.get("model-index", []))
