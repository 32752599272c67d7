"""YAML from anybody: depth, size and number of values are bounded before a parser can recurse or copy.

libyaml and PyYAML compose nodes by recursion: 80 KB of ``[`` end the process. Here the depth is counted at each node
while the parser still reads, and aliases and merge keys are counted as if they were written out before any value is
made. So a text costs time and memory in proportion to its size, whoever wrote it.

Everything in hubkit that reads YAML reads it here, the embedded Hub too; a test looks for other callers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from hubkit.core.numbers import counted

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
_MERGE = "tag:yaml.org,2002:merge"
_LONGEST_NUMBER = 1000
"""Characters of a number; Python's int() takes the square of their number."""
_LONGEST_PROBLEM = 200
_HALF = re.compile("[\ud800-\udfff]")
_HALF_PROBLEM = "invalid Unicode escape (lone surrogate)"


@dataclass(frozen=True)
class YamlLimits:
    """The most characters, levels, values and aliases of a text. For ``values`` each alias is written out."""

    characters: int = 1_000_000
    depth: int = 50
    values: int = 80_000
    aliases: int = 1_000


CARD = YamlLimits()
"""Front matter. The largest of published models, with the results of all of MTEB, has 300 KB and 20,000 values."""


class YamlError(ValueError):
    """Why a text cannot be read as YAML: its ``problem``, and ``line`` and ``column`` (from 1) where they are known."""

    def __init__(self, problem: str, mark: yaml.Mark | None = None) -> None:
        self.problem = problem = problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:_LONGEST_PROBLEM]}..."
        self.line = mark.line + 1 if mark else None
        self.column = mark.column + 1 if mark else None
        super().__init__(f"{problem} (line {self.line})" if mark else problem)


class YamlLimitError(YamlError):
    """It is YAML, but above a limit, or no file could hold what it says."""


class DoubleKeyError(YamlError):
    """A mapping has a key twice."""


class BoundedLoader(_SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader that stops at its ``limits``. :func:`load_bounded` makes and uses it."""

    limits = CARD

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Count a node before it is composed: both composers call this first."""
        self._depth += 1
        self._values += 1
        mark = parent.start_mark if parent is not None else None
        if self._depth > self.limits.depth:
            raise YamlLimitError(f"nested more than {self.limits.depth} deep", mark)
        if self._values > self.limits.values:
            raise YamlLimitError(f"more than {counted(self.limits.values, 'value')}", mark)
        super().descend_resolver(parent, index)

    def ascend_resolver(self) -> None:
        """The end of a node."""
        self._depth -= 1
        super().ascend_resolver()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Expand merge keys (``<<``): what a mapping says itself goes before what it merges."""
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        own: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if key.tag != _MERGE:
                own.append((key, value))
                continue
            sources = list(reversed(value.value)) if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                if not isinstance(source, yaml.MappingNode):
                    raise ConstructorError(None, None, "a merge key (<<) without a mapping", source.start_mark)
                self.flatten_mapping(source)
                merged += source.value
        node.value = merged + own

    def _number(self, node: yaml.ScalarNode, make: Callable[[Any, yaml.ScalarNode], Any]) -> Any:
        if len(node.value) > _LONGEST_NUMBER:
            raise YamlLimitError(f"a number of {counted(len(node.value), 'character')}", node.start_mark)
        return make(self, node)


def _whole_number(loader: BoundedLoader, node: yaml.ScalarNode) -> Any:
    return loader._number(node, yaml.constructor.SafeConstructor.construct_yaml_int)


def _decimal_number(loader: BoundedLoader, node: yaml.ScalarNode) -> Any:
    return loader._number(node, yaml.constructor.SafeConstructor.construct_yaml_float)


BoundedLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
BoundedLoader.add_constructor("tag:yaml.org,2002:float", _decimal_number)


class OnceLoader(BoundedLoader):
    """The same, which refuses a key given twice."""


def load_bounded(
    text: str,
    loader: type[BoundedLoader] = OnceLoader,
    limits: YamlLimits = CARD,
    look: Callable[[yaml.Node], None] | None = None,
) -> Any:
    """``text`` as plain values, None for an empty one. YamlError for what is not YAML or above a limit.

    ``look`` is given the composed nodes before values are made of them.
    """
    with _open(text, loader, limits) as (reader, node):
        if node is None:
            return None
        if look is not None:
            look(node)
        if isinstance(reader, OnceLoader):
            _refuse_double_keys(reader, node)
        return reader.construct_document(node)


def compose_bounded(text: str, limits: YamlLimits = CARD) -> yaml.Node | None:
    """The nodes of ``text``, without their values. YamlError as :func:`load_bounded`."""
    with _open(text, BoundedLoader, limits) as (_, node):
        return node


@contextmanager
def _open(text: str, loader: type[BoundedLoader], limits: YamlLimits) -> Iterator[tuple[Any, yaml.Node | None]]:
    """The loader and the composed, measured document. What goes wrong with them becomes a YamlError."""
    if len(text) > limits.characters:
        raise YamlLimitError(f"larger than {counted(limits.characters, 'character')}")
    reader: Any = None
    try:
        reader = loader(text)
        reader.limits = limits
        node = reader.get_single_node()
        if node is not None:
            _Expanded(limits).measure(node)
        yield reader, node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or getattr(error, "reason", None)
        if problem == "found invalid Unicode character escape code":  # libyaml's words
            raise YamlLimitError(_HALF_PROBLEM, mark) from None
        raise YamlError(problem or "not readable", mark) from None
    except YamlError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's own constructors, given a tag and a value that do not belong together (!!int x); half a character
        raise YamlError(f"a value cannot be read ({type(error).__name__})") from None
    finally:
        if reader is not None:
            reader.dispose()


class _Expanded:
    """Counts nodes as if each alias were written out. An alias names a node before it, so each is visited once."""

    def __init__(self, limits: YamlLimits) -> None:
        self.limits = limits
        self.aliases = 0
        self.known: dict[int, tuple[int, int] | None] = {}

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """(values, levels) of ``node``."""
        if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
            raise YamlLimitError(_HALF_PROBLEM, node.start_mark)
        self.known[id(node)] = None
        values, levels = 1, 0
        for child in children(node):
            more, deeper = self._alias(child) if id(child) in self.known else self.measure(child)
            values, levels = values + more, max(levels, deeper)
            if values > self.limits.values or levels >= self.limits.depth:
                raise YamlLimitError("its aliases stand for too many values", child.start_mark)
        self.known[id(node)] = values, levels + 1
        return values, levels + 1

    def _alias(self, node: yaml.Node) -> tuple[int, int]:
        found = self.known[id(node)]
        self.aliases += 1
        if found is None:
            raise YamlLimitError("an alias that stands for itself", node.start_mark)
        if self.aliases > self.limits.aliases:
            raise YamlLimitError(f"more than {counted(self.limits.aliases, 'alias', 'aliases')}", node.start_mark)
        return found


def children(node: yaml.Node) -> Iterator[yaml.Node]:
    """The nodes directly below ``node``: keys and values, or items."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _refuse_double_keys(loader: BoundedLoader, root: yaml.Node) -> None:
    """Before merge keys are expanded, as these are there to be written over."""
    done: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        left += children(node)
        seen: set[Any] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key is not a plain value", key.start_mark)
            value = loader.construct_object(key, deep=True)
            if value in seen:
                raise DoubleKeyError(f"the key {value!r} appears twice", key.start_mark)
            seen.add(value)
