"""The Python blocks of cards: found, pinned, and run as a reader would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import card_samples as samples
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, render_card
from hubkit.cards.snippets import BlockResult, Card, Limits, Pin, Place, extract, run_cards
from hubkit.cards.snippets.blocks import Imports, with_what_it_needs
from hubkit.cards.snippets.defined_names import defined, undefined
from hubkit.cards.snippets.pinned_revisions import (
    asks_local_server,
    names_repo,
    pinned,
    revision_of,
    serve_arguments,
    with_server,
)
from hubkit.cards.template_context import build_context
from hubkit.core.errors import HubkitError

PIN = Pin("me/model", "main", "c" * 40)


def block(*sources: str, before: str = "") -> str:
    return before + "".join(f"\n```python\n{source}\n```\n" for source in sources)


# --- found and changed


def test_blocks_keep_the_lines_of_the_card() -> None:
    text = "---\nlicense: mit\n---\n# Title\n\n```sh\nhf download x\n```\n\n```python\na = 1\n```\n"
    text += "- item\n\n  ```py\n  b = 2\n  ```\n"
    first, second = extract(text)
    assert (first.number, first.line, first.source, first.shell) == (1, 11, "a = 1\n", "hf download x\n")
    assert (second.number, second.line, second.source, second.shell) == (2, 16, "b = 2\n", "")
    assert text.splitlines()[10] == "a = 1"
    assert extract("```json\n{}\n```\n\n    indented = 1\n") == []


def test_an_interactive_session_is_code_without_its_prompts() -> None:
    (found,) = extract("```python\n>>> for n in range(2):\n...     print(n)\n0\n1\n>>> n\n```\n")
    assert found.source == "for n in range(2):\n    print(n)\n\n\nn\n"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("print(messages)", {"messages": 1}),
        ("def f():\n    return later\nlater = 1", {}),
        ("def f(a, *b, **c):\n    return a, b, c, d", {"d": 2}),
        ("x = [y for y in range(3)]\nlen(x)", {}),
        ("import os.path as p, sys\np, sys, os", {"os": 2}),
        ("class A:\n    b = 1\n    def c(self):\n        return b", {"b": 4}),
        ("from x import *\nwhatever", {}),
        ("with open('x') as f, g:\n    f", {"g": 1}),
        ("try:\n    pass\nexcept ValueError as error:\n    error", {}),
        ("def f():\n    global made\n    made = 1\nf()\nmade", {}),
        ("lambda q: q + r", {"r": 1}),
        ("not python at all", {}),
        ("match a:\n    case {'k': v}:\n        v", {"a": 1}),
    ],
)
def test_undefined_names(source: str, names: dict[str, int]) -> None:
    assert undefined(source) == names
    assert undefined("") == {} and defined("a, (b, c) = 1, (2, 3)") == {"a", "b", "c"}


def test_a_branch_becomes_the_commit_wherever_it_is_a_revision() -> None:
    source = dedent("""
        repo, revision = "me/model", "main"
        revision: str = 'main'
        load(repo, revision="main", text="main", base="é main")
        load("other/base", revision="0123")
        ask(model="me/model@main", other="you/model@main")
        """)
    changed, count = pinned(source, PIN)
    assert count == 4
    assert changed == source.replace('"me/model", "main"', f'"me/model", {PIN.commit!r}').replace(
        "str = 'main'", f"str = {PIN.commit!r}"
    ).replace('revision="main"', f"revision={PIN.commit!r}").replace('"me/model@main"', f"'me/model@{PIN.commit}'")
    assert revision_of(source) == "main" and revision_of("x = 1") is None
    assert revision_of('ask(model="me/model@dpo-v0")') == "dpo-v0"
    assert names_repo(source, "me/model") and not names_repo(source, "me/mod")
    assert pinned("revision = (", PIN) == ("revision = (", 0)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("load('me/model', revision='main')", 1),
        ("load_dataset('other/data', revision='main')", 0),
        ("load_dataset('imdb', revision='main')", 0),
        ("data = 'other/data'\nload_dataset(data, split='train', revision='main')", 0),
        ("load_dataset(path='other/data', revision='main')", 0),
        ("load('me/model')\nload('other/data', revision='main')", 0),
        ("repo, revision = 'other/data', 'main'", 0),
        ("repo = 'other/data'\nrevision = 'main'\nload(repo, revision=revision)", 0),
        ("revision = 'main'\nload('me/model', revision=revision)\nload('other/data', revision=revision)", 0),
        ("revision = 'main'\nload('me/model', revision=revision)\nload('other/data')", 1),
        ("repo = 'me/model'\nrepo = 'other/data'\nload(repo, revision='main')", 0),
        ("for repo in ('me/model', 'other/data'):\n    load(repo, revision='main')", 0),
        ("for repo in ('me/model',):\n    load(repo, revision='main')", 1),
        ("base = load('other/base', revision='0123')\nload(base, 'me/model', revision='main')", 1),
        ("pipeline('text-generation', model='me/model', revision='main')", 1),
        ("get(filename='adapter/README.md', repo_id='me/model', revision='main')", 1),
        ("word, revision = 'x', 'main'\nask(f'{repo}@{revision}')", 1),
    ],
)
def test_another_repos_revision_stays(source: str, count: int) -> None:
    changed, found = pinned(source, PIN)
    assert found == count == changed.count(PIN.commit)


def test_every_block_of_our_own_cards_is_pinned() -> None:
    context = build_context(samples.recipe(), "main", samples.evidence())
    for name, blocks in ((MODEL_CARD, 4), (ADAPTER_CARD, 1)):
        found = extract(render_card(context, name).text)
        pin = Pin(context["repo"], "main", "c" * 40)
        assert [pinned(item.source, pin)[1] for item in found] == [1] * blocks
        assert [revision_of(pinned(item.source, pin)[0]) for item in found] == [pin.commit] * blocks


def test_what_a_name_holds_may_stand_in_an_earlier_block() -> None:
    load = "load(repo, revision='main')"
    assert pinned(load, PIN)[1] == pinned(load, PIN, ["repo = 'me/model'"])[1] == 1
    assert pinned(load, PIN, ["repo = 'other/data'"]) == (load, 0)


@given(st.text(min_size=1, max_size=30), st.text(max_size=10))
def test_any_branch_is_exchanged_and_nothing_else(branch: str, before: str) -> None:
    pin = Pin("me/model", branch, "c" * 40)
    source = f"a = {before!r}; repo, revision = 'me/model', {branch!r}; b = {branch!r}\nc = [{before!r}]\n"
    changed, count = pinned(source, pin)
    names: dict[str, object] = {}
    exec(changed, names)
    assert (names["revision"], names["repo"], names["b"]) == (pin.commit, "me/model", branch)
    assert (names["a"], names["c"], count) == (before, [before], 1)


def test_the_address_of_a_local_server_is_exchanged() -> None:
    source = 'c = OpenAI(base_url="http://localhost:8000/v1", api_key="none")  # ü\n'
    assert with_server(source, "http://127.0.0.1:9") == source.replace(
        '"http://localhost:8000/v1"', "'http://127.0.0.1:9/v1'"
    )
    assert asks_local_server(source) and not asks_local_server('OpenAI(base_url="https://api.example.org/v1")')


def test_the_server_that_a_shell_block_starts() -> None:
    shell = "pip install x\n$ transformers serve me/model@main \\\n  --port 8000 --dtype float32 --host=0.0.0.0 &\n"
    assert serve_arguments(shell, PIN) == [f"me/model@{PIN.commit}", "--dtype", "float32"]
    assert serve_arguments("vllm serve me/model") is None
    assert serve_arguments('transformers serve "unclosed') is None


def test_a_block_comes_with_the_earlier_ones_that_it_needs() -> None:
    blocks = extract(block("a = 1", "unrelated = 2", "b = a", "print(b)"))
    assert [item.number for item in with_what_it_needs(blocks, 3)] == [1, 3, 4]
    assert [item.number for item in with_what_it_needs(blocks, 1)] == [2]


def test_what_is_imported() -> None:
    imports = Imports()
    imports.add("import a.b, c\nfrom d.e import f, g as h\nfrom . import i\ndef j():\n    import k")
    assert imports.names == {"a.b": set(), "c": set(), "d.e": {"f", "g"}, "k": set()}
    assert imports.roots == {"a", "c", "d", "k"}


# --- run


def run(
    folder: Path, text: str, *, seconds: float = 60.0, memory: int | None = None, pin: Pin | None = None
) -> list[BlockResult]:
    place = Place("http://127.0.0.1:9", folder, token="hf_" + "secret" * 6)
    return run_cards([Card("README.md", text, pin, strict=pin is not None)], place, Limits(seconds, memory))


def test_each_block_runs_by_itself(tmp_path: Path) -> None:
    text = block("kept = 1\nprint('one')", "print('kept' in globals())", "raise SystemExit(0)", "1 / 0")
    outcomes = run(tmp_path, text)
    assert [item.outcome for item in outcomes] == ["passed", "passed", "passed", "failed"]
    assert [item.output for item in outcomes[:2]] == ["one", "False"]
    last = outcomes[3]
    assert last.why == "ZeroDivisionError: division by zero"
    assert f'File "README.md", line {last.line}, in <module>\n    1 / 0' in last.output
    assert "forkserver" not in last.output and "Child" not in last.output
    assert outcomes[0].to_json()["card"] == "README.md"


def test_a_later_block_goes_on_from_an_earlier_one(tmp_path: Path) -> None:
    outcomes = run(tmp_path, block("word = 'first'", "print(word)", "print(missing)"))
    assert [item.outcome for item in outcomes] == ["passed", "passed", "failed"]
    assert outcomes[1].output == "first" and outcomes[2].why == "NameError: name 'missing' is not defined"


SHOW = """
import os, pathlib
print(" ".join(sorted(os.environ)))
print(os.environ["HF_ENDPOINT"], os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"])
print(os.listdir(), os.listdir(pathlib.Path.home()))
print(pathlib.Path.home())
"""


def test_the_environment_is_a_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sesame")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "users" * 8)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (outcome,) = run_cards([Card("README.md", block(SHOW))], Place("http://127.0.0.1:9", tmp_path))
    assert outcome.outcome == "passed", outcome.output
    names, hub, folders, home = outcome.output.splitlines()
    assert not {"MY_API_KEY", "HF_TOKEN", "PYTHONPATH"} & set(names.split())
    assert {"HOME", "HF_HOME"} <= set(names.split()) and "HF_HUB_DISABLE_XET" not in names
    assert hub == "http://127.0.0.1:9 1" and folders == "[] []"
    assert Path(home).is_relative_to(tmp_path)


def test_the_way_through_a_firewall_is_for_ones_own_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:sesame@proxy:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert {"HTTPS_PROXY", "no_proxy"} <= Place("https://huggingface.co", tmp_path).environment().keys()
    assert "sesame" not in str(Place("https://huggingface.co", tmp_path, own=False).environment())


def test_a_token_is_in_no_output(tmp_path: Path) -> None:
    (outcome,) = run(
        tmp_path, block("import os\nprint('token', os.environ['HF_TOKEN'])\nraise ValueError(os.environ['HF_TOKEN'])")
    )
    assert outcome.outcome == "failed" and "secret" not in json.dumps(outcome.to_json())
    assert outcome.why == "ValueError: [token]"


def test_the_working_folder_is_empty_and_goes(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path, block("import os\nopen('left', 'w').close()\nprint(os.listdir())", "import os\nprint(os.listdir())")
    )
    assert [item.output for item in outcomes] == ["['left']", "[]"]
    assert not list((tmp_path / "blocks").iterdir())


def test_limits_of_time_and_memory(tmp_path: Path) -> None:
    began = time.monotonic()
    slow, hungry, fine = run(
        tmp_path,
        block("import time\nprint('here', flush=True)\ntime.sleep(600)", "held = bytearray(2**31)", "print('fine')"),
        seconds=3, memory=2**30,
    )  # fmt: skip
    assert slow.outcome == "failed" and slow.why == "it did not end within 3 s" and slow.output == "here"
    assert hungry.outcome == "failed" and hungry.why == "MemoryError"
    assert fine.outcome == "passed"
    assert time.monotonic() - began < 300


def test_output_is_bounded(tmp_path: Path) -> None:
    (outcome,) = run(tmp_path, block("for n in range(200_000):\n    print('x' * 40, n)\nprint('\\x1b[31mend')"))
    assert outcome.outcome == "passed" and len(outcome.output) < 25_000
    assert outcome.output.endswith("[31mend") and "\x1b" not in outcome.output


def test_what_a_block_leaves_running_is_ended(tmp_path: Path) -> None:
    source = dedent("""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid)
        """)
    (outcome,) = run(tmp_path, block(source))
    assert outcome.outcome == "passed" and not psutil.pid_exists(int(outcome.output))


def test_a_block_that_closes_its_output(tmp_path: Path) -> None:
    (outcome,) = run(tmp_path, block("import os\nos.close(1)\nos.close(2)\nos._exit(7)"))
    assert (outcome.outcome, outcome.why) == ("failed", "it ended with status 7")


def test_a_block_that_kills_its_own_process(tmp_path: Path) -> None:
    outcomes = run(tmp_path, block("import os\nprint('so far', flush=True)\nos.kill(os.getpid(), 9)", "print('next')"))
    assert outcomes[0].why.startswith("a signal ended it (9)") and outcomes[0].output == "so far"
    assert outcomes[1].outcome == "passed"


def test_nothing_outlives_the_process_that_ran_the_blocks(tmp_path: Path) -> None:
    """A block that kills it: what it has started is ended all the same, and what hubkit runs beside it goes on."""
    pid = tmp_path / "pid"
    source = dedent(f"""
        import os, subprocess, sys, time
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        middle = f"import subprocess; print(subprocess.Popen({{sleep!r}}, stdout=-3, start_new_session=True).pid)"
        child = subprocess.Popen(sleep, start_new_session=True, env={{}})
        orphan = subprocess.check_output([sys.executable, "-c", middle], text=True)
        open({str(pid)!r}, "w").write(f"{{child.pid}} {{orphan}}")
        os.kill(os.getppid(), 9)
        time.sleep(600)
        """)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as mine:
        try:
            with pytest.raises(HubkitError, match="was ended by signal 9"):
                run(tmp_path, block(source))
            assert mine.poll() is None
        finally:
            mine.kill()
    left = [int(number) for number in pid.read_text().split()]
    assert len(left) == 2 and not any(psutil.pid_exists(number) for number in left)


def test_blocks_die_with_their_starter(tmp_path: Path) -> None:
    starter = dedent(f"""
        from pathlib import Path
        from hubkit.cards.snippets import Card, Place, run_cards
        source = "import os, time\\nopen('{tmp_path}/pid', 'w').write(str(os.getpid()))\\ntime.sleep(600)"
        text = "```python\\n" + source + "\\n```\\n"
        run_cards([Card("README.md", text)], Place("http://127.0.0.1:9", Path({str(tmp_path)!r})))
        """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", starter], env=environment)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    block_process = int(pid.read_text())
    while psutil.pid_exists(block_process):
        assert time.monotonic() < deadline, "the block outlived its starter"
        time.sleep(0.05)


def test_without_forks_it_is_the_same(tmp_path: Path) -> None:
    """A library that starts a thread when it is imported: each block then gets a process of its own."""
    package = tmp_path / "blocks-lib"
    package.mkdir()
    text = block("import threading_at_import\nprint(threading_at_import.name)\n1 / 0", "print('b')")
    (package / "threading_at_import.py").write_text(
        "import threading, time\nname = 'lib'\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    script = tmp_path / "drive.py"
    script.write_text(
        dedent(f"""
        import json, sys
        from pathlib import Path
        from hubkit.cards.snippets import Card, Place, run_cards
        class WithLibrary(Place):
            def environment(self):
                return {{**super().environment(), "PYTHONPATH": {str(package)!r}}}
        outcomes = run_cards([Card("README.md", {text!r})], WithLibrary("http://127.0.0.1:9", Path({str(tmp_path)!r})))
        print(json.dumps([item.to_json() for item in outcomes]))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    assert first["outcome"] == "failed" and first["why"] == "ZeroDivisionError: division by zero"
    assert first["output"].startswith("lib\n") and f'File "README.md", line {first["line"] + 2}' in first["output"]
    assert (second["outcome"], second["output"]) == ("passed", "b")


def test_blocks_that_are_not_run(tmp_path: Path) -> None:
    client = 'client = dict(base_url="http://localhost:8000/v1")'
    outcomes = run(
        tmp_path, block("!pip install x\nimport os", client) + f"\n```sh\nvllm serve x\n```\n{block(client)}"
    )
    assert [item.outcome for item in outcomes] == ["skipped"] * 3
    assert "notebook" in outcomes[0].why and "no `transformers serve` on the card starts" in outcomes[1].why


def test_a_block_that_is_not_pinned_is_refused_where_it_must_be(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path, block("repo = 'me/model'", "repo, revision = 'me/model', 'main'\nprint(revision)"), pin=PIN
    )
    assert outcomes[0].outcome == "failed" and outcomes[0].why == "it loads me/model and is not pinned to 'main'"
    assert (outcomes[1].outcome, outcomes[1].output, outcomes[1].revision) == ("passed", PIN.commit, PIN.commit)
    other = "print('me/model')\nprint(dict(repo='other/data', revision='main'))"
    (outcome,) = run(tmp_path, block(other), pin=PIN)
    assert (outcome.outcome, outcome.revision) == ("failed", "main") and "is not pinned" in outcome.why
