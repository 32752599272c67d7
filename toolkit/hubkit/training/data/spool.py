"""The checked rows of one source on disk, so that no list of them is in memory.

A row is a line of a file. What is kept of it in memory are 24 bytes: its index in the source, a digest of the row and
one of its question. Rows are chosen by these alone; then the lines of the chosen ones are read once more, in order.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.training.data.mappings import Row
from hubkit.training.data.rows import Passed, digest, question, uses_tools

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Digests = NDArray[Any]
    Mask = NDArray[Any]
_BUFFER = 1 << 20


class Spool:
    """The rows of one source in the file ``path``, with three arrays that have a value for each of them.

    ``indices``: the row's index in the source. ``marks``: its digest. ``asked``: that of its question.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._indices, self._marks, self._asked = array("Q"), array("Q"), array("Q")
        self._plain = array("B")

    @classmethod
    def write(cls, path: Path, rows: Iterable[Passed]) -> Spool:
        """Write ``rows`` to ``path``, each as it comes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        spool = cls(path)
        with path.open("w", encoding="utf-8", buffering=_BUFFER, newline="\n") as file:
            for passed in rows:
                file.write(passed.line + "\n")
                spool._indices.append(passed.number)
                spool._marks.append(digest(passed.line))
                spool._asked.append(digest(question(passed.row["prompt"])))
                spool._plain.append(not uses_tools(passed.row))
        return spool

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def indices(self) -> Digests:
        """The index of each row in the source."""
        return _view(self._indices)

    @property
    def marks(self) -> Digests:
        """The digest of each row."""
        return _view(self._marks)

    @property
    def asked(self) -> Digests:
        """The digest of each row's question."""
        return _view(self._asked)

    @property
    def plain(self) -> Mask:
        """Whether each row can be asked without tools."""
        import numpy as np

        return np.frombuffer(self._plain, dtype=bool) if len(self._plain) else np.zeros(0, bool)

    def lines(self, wanted: Mask) -> Iterator[tuple[int, str]]:
        """(number, line without its end) of the rows for which ``wanted`` is true."""
        with self.path.open(encoding="utf-8", buffering=_BUFFER, newline="\n") as file:
            for number, line in enumerate(file):
                if wanted[number]:
                    yield number, line.rstrip("\n")

    def rows(self, wanted: Mask) -> Iterator[tuple[int, Row]]:
        """(number, row) of the rows for which ``wanted`` is true."""
        for number, line in self.lines(wanted):
            yield number, json.loads(line)


def _view(values: array[int]) -> Digests:
    import numpy as np

    return np.frombuffer(values, dtype=np.uint64) if len(values) else np.zeros(0, np.uint64)
