"""The front matter of a card: built by huggingface_hub's classes, written by a YAML dumper."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from hubkit.cards.measured import FORMATS, Measured, Number, value_of
from hubkit.core.bounded_yaml import YamlError, compose_bounded, load_bounded
from hubkit.core.errors import RefusedError
from hubkit.core.front_matter import find_front_matter


@dataclass(frozen=True)
class Score:
    """One benchmark number for ``model-index``. ``dataset`` is a Hub id, or the task's name for own tasks.

    ``source`` is the name and the URL of where it was reported; None: measured in the release.
    """

    task: str
    dataset: str
    config: str | None
    split: str | None
    metric: str
    value: Measured
    shots: Measured | None
    source: tuple[str, str] | None = None


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
    licence_name: str | None = None
    licence_link: str | None = None
    new_version: str | None = None
    gated: Mapping[str, Any] = field(default_factory=dict)
    """The keys of the form by which people ask for access, as the Hub names them."""


def front_matter(metadata: Metadata) -> tuple[str, dict[str, Any], list[Number]]:
    """The YAML block (without its ``---`` lines), the same as plain values, and the numbers in it.

    Raises RefusedError if reading the block back gives different values.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from huggingface_hub.repocard_data import eval_results_to_model_index

    numbers: list[Number] = []

    def record_number(number: Measured, form: str) -> Any:
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
            dataset_args={"num_few_shot": record_number(score.shots, "plain")} if score.shots else None,
            metric_type=score.metric,
            metric_value=record_number(score.value, "score"),
            source_name=score.source[0] if score.source else None,
            source_url=score.source[1] if score.source else None,
        )
        for score in metadata.scores
    ]
    card = ModelCardData(
        license=metadata.licence,
        license_name=metadata.licence_name,
        license_link=metadata.licence_link,
        language=list(metadata.language),
        base_model=metadata.base_model,
        base_model_relation=metadata.relation,
        datasets=list(dict.fromkeys(metadata.datasets)) or None,
        library_name=metadata.library,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(metadata.tags)),
        new_version=metadata.new_version,
        **metadata.gated,
    )
    plain: dict[str, Any] = card.to_dict()  # type: ignore[no-untyped-call]
    if results:
        # By source, as huggingface_hub gives all numbers of one dataset the source of the first.
        by_source = [
            eval_results_to_model_index(metadata.name, [item for item in results if item.source_name == name])[0]
            for name in dict.fromkeys(item.source_name for item in results)
        ]
        entries = [entry for index in by_source for entry in index["results"]]
        plain["model-index"] = [{**by_source[0], "results": entries}]
    block, reads_back = _written(plain)
    if not reads_back:
        raise RefusedError(
            "The card's metadata does not survive a YAML round trip.",
            hint="Remove unusual characters from the recipe's tags, languages and license.",
        )
    return block, plain, numbers


def dump_block(plain: Mapping[str, Any]) -> str:
    """Metadata as YAML, without the ``---`` lines."""
    return dump_plain(dict(plain)).strip()


def dump_plain(value: Any) -> str:
    """Plain values as YAML, by a dumper of which every text can be read back as it was."""
    try:
        return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # libyaml writes no half of a surrogate pair; Python's emitter escapes it
        return str(yaml.dump(value, Dumper=_SlowDumper, sort_keys=False, allow_unicode=True))


# PyYAML's other styles fold these, and the text that is read back is another.
_FOLDED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml, where PyYAML was built with it


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """PyYAML's safe dumper that writes words with line ends or control characters in double quotes, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always: what is given twice is written twice."""
        return True


class _SlowDumper(yaml.SafeDumper):
    """The same in Python."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always, too."""
        return True


def _word(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = not text.isprintable() and _FOLDED.search(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _word)
_SlowDumper.add_representer(str, _word)


def _written(plain: Mapping[str, Any]) -> tuple[str, bool]:
    """:func:`dump_block` of ``plain``, and whether a card with it is read back as ``plain``.

    The Hub must find all of the block. Then nodes are compared, by the tags and texts of which values are
    made: that takes half of the time of comparing the values.
    """
    try:
        block, meant = _nodes(plain, _Dumper)
    except UnicodeEncodeError:
        block, meant = _nodes(plain, _SlowDumper)
    found = find_front_matter(f"---\n{block}\n---\n", exact=True)
    if found is None or found.text != block:
        return block, False
    try:
        return block, _same(meant, compose_bounded(block))
    except YamlError:
        return block, False


def _nodes(plain: Mapping[str, Any], dumper_of: Any) -> tuple[str, Any]:
    stream = io.StringIO()
    dumper = dumper_of(stream, sort_keys=False, allow_unicode=True, default_flow_style=False)
    meant = dumper.represent_data(dict(plain))
    dumper.open()
    dumper.serialize(meant)
    dumper.close()
    return stream.getvalue().strip(), meant


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or one.tag != other.tag:
        return False
    if isinstance(one, yaml.ScalarNode):
        return bool(one.value == other.value)
    pairs = zip(one.value, other.value, strict=False)
    if len(one.value) != len(other.value):
        return False
    if isinstance(one, yaml.MappingNode):
        return all(_same(a, b) and _same(c, d) for (a, c), (b, d) in pairs)
    return all(_same(a, b) for a, b in pairs)


def read_block(text: str) -> dict[str, Any] | None:
    """The metadata of the card ``text``; None when it has none. YamlError when it is not YAML, or above the limits.

    The block is found as by huggingface_hub, which is how the Hub's server finds it.
    """
    found = find_front_matter(text, exact=True)
    if found is None:
        return None
    value = load_bounded(found.text)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise YamlError("the metadata is not a mapping of keys")
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


def license_of(card: str) -> tuple[str | None, str | None, str | None]:
    """The license, its name and its link in the metadata of ``card``; None for each that cannot be read."""
    try:
        front = read_block(card) or {}
    except YamlError:
        front = {}
    name, title, link = (front.get(key) for key in ("license", "license_name", "license_link"))
    return (
        name if isinstance(name, str) else None,
        title if isinstance(title, str) else None,
        link if isinstance(link, str) else None,
    )
