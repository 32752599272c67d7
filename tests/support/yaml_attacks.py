"""YAML that is written to crash, hang or fill a program that reads it; and the child process that tries the readers.

python yaml_attacks.py READER            every attack through the reader; a line of JSON each
python yaml_attacks.py READER EXAMPLES   as many texts that hypothesis makes of the pieces of attacks
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

SIZE = 132_000
"""Characters of an attack: what fits under the limits of every reader."""


def attacks() -> dict[str, str]:
    """The texts by what they are made of."""
    chain = "".join(f"a{n}: &a{n} {{<<: *a{n - 1}, x{n}: 1}}\n" for n in range(1, SIZE // 40))
    nine = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    keys = ",".join(f"k{n}: 1" for n in range(5000))
    return {
        "lists": "[" * SIZE,
        "mappings": "{" * SIZE,
        "named mappings": "{a: " * (SIZE // 4),
        "mixed": "[{a: " * (SIZE // 5),
        "question marks": "? " * (SIZE // 2),
        "question marks, a line each": "".join(f"{' ' * n}?\n" for n in range(500)),
        "dashes": "- " * (SIZE // 2),
        "indented": "".join(f"{' ' * n}a:\n" for n in range(500)),
        "a chain of aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000)),
        "an alias of itself": "a: &a [*a]",
        "a mapping of itself": "a: &a {b: *a}",
        "a merge of itself": "a: &a {<<: *a}",
        "nine times nine aliases": f"a0: &a0 [x]\n{laughs}",
        "nine times nine merges": f"a0: &a0 {{x: 1}}\n{nine}",
        "a chain of merges": f"a0: &a0 {{x0: 1}}\n{chain}",
        "a large mapping merged often": f"a: &a {{{keys}}}\nb: [{'{<<: *a},' * 8000}]",
        "merge keys without end": "{" + "<<: {}," * (SIZE // 7) + "}",
        "aliases": f"a: &a b\nc: [{'*a,' * (SIZE // 3)}]",
        "anchors": "".join(f"- &a{n} b\n" for n in range(SIZE // 10)),
        "an undefined alias": "a: *b",
        "a long word": f"a: {'b' * SIZE}",
        "many words": f"a: {'b ' * (SIZE // 2)}",
        "a word over many lines": "a:\n" + " b\n" * (SIZE // 3),
        "a block of empty lines": "a: |\n" + "\n" * SIZE,
        "empty lines": "a: 1" + "\n" * SIZE + "b: 2",
        "comments": "#\n" * (SIZE // 2),
        "blanks": f"a:{' ' * SIZE}b",
        "tabs": f"a:{chr(9) * SIZE}b",
        "an open quote": f'a: "{"b " * (SIZE // 2)}',
        "escapes": f'a: "{chr(92)}n{(chr(92) + "n") * (SIZE // 2)}"',
        "digits": f"a: {'1' * SIZE}",
        "digits as a float": f"a: {'1' * SIZE}.0",
        "underlined digits": f"a: 1{'_1' * (SIZE // 2)}",
        "hexadecimal digits": f"a: 0x{'f' * SIZE}",
        "a number of base 60": f"a: {'1:' * (SIZE // 2)}1",
        "an exponent": f"a: 1e{'9' * SIZE}",
        "1e999999": "a: 1e999999\nb: 1.0e+999999\nc: .inf\nd: .nan",
        "a date that is none": "a: 2001-99-99\nb: !!timestamp x\nc: 2001-01-01 99:99:99",
        "a long date": f"a: 2001-01-01 {' ' * SIZE}1",
        "keys": "".join(f"k{n}: 1\n" for n in range(SIZE // 9)),
        "one key": "a: 1\n" * (SIZE // 5),
        "equal numbers as keys": "1: a\n0x1: b",
        "lists as keys": "? [a]\n: b\n? {a: b}\n: c",
        "items": f"a: [{'b,' * (SIZE // 2)}]",
        "keys without values": f"{{{'a,' * (SIZE // 2)}}}",
        "pairs": f"a: !!omap [{'{a: b},' * (SIZE // 7)}]",
        "a set": "? a\n" * (SIZE // 4),
        "documents": "---\na: 1\n" * (SIZE // 9),
        "directives": "%YAML 1.1\n" * (SIZE // 10),
        "a long tag": f"a: !{'%41' * (SIZE // 3)} b",
        "Python": "a: !!python/object/apply:os.system ['kill -9 $$']\nb: !!python/name:os.system",
        "wrong tags": "a: !!int x\nb: !!float y\nc: !!binary /\nd: !!bool maybe\ne: !!null x\nf: !!set 1\ng: !!map x",
        "NULs": f"a: b{chr(0) * 1000}c",
        "a BOM within": f"a: {chr(0xFEFF) * 1000}b",
        "half a character": f"a: {chr(0xD800)}",
        "half a character, escaped": f'a: "{chr(92)}ud800"',
        "line ends of other systems": f"a: b{chr(0x85)}c: d{chr(0x2028)}e: f\r\rg: h",
        "three dashes in a value": "a: b---\nc: d",
        "MTEB": _large_card(),
    }  # fmt: skip


def _large_card() -> str:
    """Results as the largest published cards have them: this must be read."""
    metrics = "".join(f"    - type: map_at_{n}\n      value: {n}.25\n" for n in range(30))
    task = f"  - task:\n      type: Retrieval\n    dataset:\n      type: mteb/x\n      name: X\n    metrics:\n{metrics}"
    return f"model-index:\n- name: large\n  results:\n{task * 130}"


PIECES = (
    "[", "]", "{", "}", "? ", ": ", "- ", ", ", "a", "a: ", "&a ", "*a", "<<: *a", "\n", "\n  ", " ", "\t", "'", '"',
    "\\ud800", "!!int ", "!!set ", "!!binary ", "!x ", "!!python/name:os.system ", "|\n", ">\n", "#", "1", "1:1", "0x",
    "1e9", "_", "2001-01-01", "---\n", "...\n", "%YAML 1.1\n", "\0", "\ufeff", "\u2028", "\x85", "~", "=", ".inf",
)  # fmt: skip


def _reader(name: str) -> Callable[[str], object]:
    if name == "the recipe's and check's":
        from hubkit.core.yaml_text import parse_yaml

        return lambda text: parse_yaml(text, "x.yaml")
    if name == "the embedded Hub's":
        from hubkit.server.repos import metadata

        return lambda text: metadata.check(f"---\n{text}\n---\n", "model")
    if name == "results of leaderboards":
        from hubkit.cards.leaderboards import eval_results_problems

        return lambda text: list(eval_results_problems(text))
    if name == "benchmark tasks":
        from tempfile import mkdtemp

        from hubkit.evals.taskfiles import own_tasks

        folder = Path(mkdtemp())

        def tasks(text: str) -> object:
            (folder / "x.yaml").write_bytes(text.encode("utf-8", "replace"))
            return own_tasks(folder)

        return tasks
    if name == "a release's":
        from hubkit.cards.edits import keep_edits

        def release(text: str) -> object:
            whole = f"---\n{text}\n---\n# x\n"
            return keep_edits(whole, f"{whole}y", "---\na: 1\n---\n# x\n")

        return release
    assert name == "card lint's", name
    from hubkit.cards.validate import problems_of

    return lambda text: problems_of(f"---\n{text}\n---\n# x\n")


READERS = {
    "the recipe's and check's": 1.0, "the embedded Hub's": 1.0, "results of leaderboards": 1.0, "benchmark tasks": 1.0,
    "card lint's": 1.0, "a release's": 2.0,
}  # fmt: skip
"""Seconds of processor time that each may take for a text; a release reads what was there before, and what is now."""


def _measure(read: Callable[[str], object], text: str) -> float:
    """Seconds of processor time; what is refused is refused by one of our own errors."""
    from hubkit.core.errors import HubkitError

    start = time.process_time()
    with contextlib.suppress(HubkitError):
        read(text)
    return time.process_time() - start


def _peak() -> int:
    """The most memory that this process had, in bytes. rusage also counts what its parent had when it was forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


def main() -> None:
    """See the module."""
    read = _reader(sys.argv[1])
    _measure(read, "a: 1")
    before = _peak()
    if len(sys.argv) > 2:
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        runs = st.tuples(st.sampled_from(PIECES), st.integers(1, 12) | st.integers(1, 5000))
        slowest = [0.0]

        @settings(
            max_examples=int(sys.argv[2]), deadline=timedelta(seconds=20), database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.lists(runs, max_size=12))
        def fuzz(parts: list[tuple[str, int]]) -> None:
            text = "".join(piece * times for piece, times in parts)[: 2 * SIZE]
            slowest[0] = max(slowest[0], _measure(read, text))

        fuzz()
        times = {"the slowest": slowest[0]}
    else:
        times = {}
        for name, text in attacks().items():
            print(name, file=sys.stderr, flush=True)  # the last one is that which ended the process
            times[name] = _measure(read, text)
    after = _peak()
    print(json.dumps({"seconds": times, "bytes": after - before}))


if __name__ == "__main__":
    main()
