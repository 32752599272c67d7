"""The data of the example: questions about Python's standard library, with answers from its own documentation.

From the first sentence of each function's docstring come preference pairs (the columns of Orca's pairs), SFT rows
(a column ``messages``) and a benchmark of multiple-choice questions. No function is in two of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODULES = """
array ast base64 binascii bisect builtins calendar cmath collections colorsys configparser contextlib copy csv
dataclasses datetime difflib filecmp fileinput fnmatch fractions functools getpass glob graphlib gzip hashlib
heapq hmac html inspect io ipaddress itertools json keyword locale logging lzma math mimetypes numbers operator
os os.path pathlib pickle pkgutil platform plistlib pprint queue quopri random re runpy sched secrets select
selectors shelve shlex shutil socket stat statistics string struct subprocess sys tarfile tempfile textwrap
threading time timeit trace traceback types typing unicodedata urllib.parse urllib.request uuid warnings wave
weakref webbrowser xml.sax.saxutils zipfile zlib
"""
PAIRS, ROWS, HELD_OUT, QUESTIONS = 200, 200, 32, 40
VERBS = """
Add Append Apply Assert Attempt Build Calculate Call Change Check Clear Close Combine Compare Compile Compute
Concatenate Construct Convert Copy Count Create Decode Decorate Decrease Delete Deserialize Determine Disable
Discard Display Divide Emit Enable Encode Ensure Escape Evaluate Execute Extend Extract Fetch Fill Find Flush
Format Generate Get Give Handle Increase Indicate Initialize Insert Install Invoke Iterate Join List Load Locate
Look Make Map Merge Move Normalize Open Parse Perform Pop Print Produce Provide Put Quote Raise Read Receive
Record Register Release Remove Rename Repeat Replace Report Reset Resolve Retrieve Return Rotate Round Run Scan
Search Send Set Shuffle Shut Skip Sort Split Start Stop Store Strip Swap Take Test Transform Translate Try Turn
Unregister Update Verify Wait Walk Wrap Write Yield
"""


def facts() -> list[tuple[str, str]]:
    """(name, what it does) of the documented functions and methods of ``MODULES``, in an order that a seed gives."""
    found: dict[str, str] = {}
    for name in MODULES.split():
        for called, function in _functions(importlib.import_module(name), name):
            if (does := _first_sentence(function)) and does not in found.values():
                found.setdefault(called, does)
    known = sorted(found.items())
    random.Random(0).shuffle(known)
    return known


def _functions(module: Any, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for key, value in sorted(vars(module).items()):
        home = str(getattr(value, "__module__", None) or name)
        if key.startswith("_") or home.lstrip("_") not in (name, name.replace("os.path", "posixpath")):
            continue
        prefix = "" if name == "builtins" else f"{name}."
        if inspect.isroutine(value):
            yield f"{prefix}{key}", value
        elif inspect.isclass(value):
            for method, body in sorted(vars(value).items()):
                if not method.startswith("_") and inspect.isroutine(body):
                    yield f"{prefix}{key}.{method}", body


def _first_sentence(function: Callable[..., Any]) -> str | None:
    """What ``function`` does, such as "returns the sine of x."; None where its docstring has no such sentence."""
    text = inspect.getdoc(function) or ""
    first = re.sub(r"\s+", " ", text.split("\n\n")[0]).strip()
    sentence = re.split(r"(?<=[.])\s", first)[0].replace("``", "`")
    verb, _, rest = sentence.partition(" ")
    odd = re.search(r"[<>|:;()]|(and|then|,) return |e\.g\.", sentence)
    if odd or verb not in VERBS.split() or not rest.endswith(".") or not 30 <= len(sentence) <= 160:
        return None
    return f"{_third_person(verb.lower())} {rest}"


def _third_person(verb: str) -> str:
    if verb.endswith(("py", "ry")):
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("sh", "ch")) else f"{verb}s"


def _question(name: str) -> str:
    return f"What does {name} do in Python?"


def _answer(name: str, does: str) -> str:
    return f"`{name}` {does}"


def pairs(known: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """The docstring's answer is chosen; a wordy one, or that of another function, is rejected."""
    for place, (name, does) in enumerate(known):
        wordy = (
            f"That is a great question! Python is a very popular language with many functions, and {name} is one of "
            f"them. There is a lot to say about it, and it can be used in many programs."
        )
        other = _answer(name, known[place - 1][1])
        rejected = other if place % 2 else wordy
        yield {"system": "", "question": _question(name), "chosen": _answer(name, does), "rejected": rejected}


def chats(known: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A question and its answer as messages."""
    for name, does in known:
        question = {"role": "user", "content": _question(name)}
        yield {"messages": [question, {"role": "assistant", "content": _answer(name, does)}]}


def questions(known: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A question with four answers, one of which is right."""
    draw = random.Random(1)
    for name, does in known:
        choices = [does, *draw.sample([other for _, other in known if other != does], 3)]
        draw.shuffle(choices)
        answers = [_answer(name, choice) for choice in choices]
        yield {"question": _question(name), "choices": answers, "answer": choices.index(does)}


TASK = """\
# Questions about functions of Python's standard library; their docstrings give the right answer and the wrong ones.
task: python_docs
task_alias: Python's documentation
dataset_path: json
dataset_kwargs:
  data_files: {test: python_docs.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
CARD = """\
---
license: other
license_name: psf-2.0
license_link: https://docs.python.org/3/license.html
language: [en]
configs:
  - config_name: default
    data_files:
      - {{split: train, path: data/train.jsonl}}
---
# {title}

{count} rows made from the docstrings of Python {version}'s standard library by hubkit's example
examples/smollm2. {what}
"""


def make_data(folder: Path) -> None:
    """Write the datasets ``pairs`` and ``chats``, and the folder of the benchmark, ``tasks``, into ``folder``."""
    known = facts()
    need = QUESTIONS + PAIRS + ROWS + HELD_OUT
    if len(known) < need:
        raise SystemExit(
            f"This Python documents {len(known)} functions in a form that the example can use, not {need}."
        )
    tested, rest = known[:QUESTIONS], known[QUESTIONS:]
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "python_docs.yaml").write_text(TASK, encoding="utf-8")
    _write(folder / "tasks" / "python_docs.jsonl", list(questions(tested)))
    what = "A short, right answer is preferred to a wordy or a wrong one."
    _dataset(folder / "pairs", "Preference pairs", list(pairs(rest[:PAIRS])), what)
    what = "Each is a question about a function, and its answer."
    _dataset(folder / "chats", "Chats", list(chats(rest[PAIRS : PAIRS + ROWS + HELD_OUT])), what)


def _dataset(folder: Path, title: str, rows: list[Any], what: str) -> None:
    import platform

    (folder / "data").mkdir(parents=True)
    _write(folder / "data" / "train.jsonl", rows)
    title = f"{title} about Python's standard library"
    card = CARD.format(title=title, count=len(rows), version=platform.python_version(), what=what)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
