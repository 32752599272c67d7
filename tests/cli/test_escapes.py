"""Every command, given a folder, a repo, a recipe, a run and a Hub of which every text steers a terminal or a CI job.

On a terminal and in a pipe, nothing of it arrives but visible characters; `--json` keeps it, as escapes.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import raw_commits
from commands import HUBKIT, environment
from hostile_hub import hostile_hub
from hostile_words import ESCAPES, commands_in
from huggingface_hub import HfApi
from samples import RECIPE_TEXT
from terminals import command_line, run_forked, steering

from hubkit.cli import cli
from hubkit.server import process
from hubkit.server.accounts.accounts import open_accounts

pytestmark = [pytest.mark.fault("S13"), pytest.mark.timeout(900)]

WORD = "".join(ESCAPES)
FLAT = "".join(word for word in ESCAPES if "\n" not in word and "\r" not in word and "\x00" not in word)
"""Without line ends and NUL: for where those end the word."""
ARG = "".join("\udc9b" if "\ud800" <= char <= "\udfff" else char for char in FLAT)
"""As an argument: bytes that are no UTF-8 arrive as halves of their own."""
REPLACED = "31mb\x9bc\u202ed\u2028e\x7f\r::f##[g]\u200bh-1"
NAME = "a\x1b[31mb\x9bc\u202ed\u2028e\x7f\r::f##[g]\u200bh"
"""For names of files and folders on this disk."""
BRANCH = "ze\u00adro"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group, info_name="hubkit")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(" ".join(path) for path in leaves(cli))


@dataclass
class Harm:
    """What the commands are given. ``folder`` is where they run."""

    folder: Path
    hubs: dict[str, str]
    plain: str
    token: str


def model_files() -> dict[str, bytes]:
    """A model of which every string is hostile."""
    settings: dict[str, Any] = {
        "config.json": {
            "architectures": [WORD, WORD], "model_type": WORD, "torch_dtype": WORD, "eos_token_id": 7, "vocab_size": 9,
            WORD: WORD, "transformers_version": WORD, "auto_map": {"AutoConfig": WORD},
        },
        "tokenizer_config.json": {
            "eos_token": WORD, "bos_token": {"content": WORD}, "chat_template": f"{{{{ raise_exception({FLAT!a}) }}}}",
            "added_tokens_decoder": {"7": {"content": WORD, "special": True}}, "tokenizer_class": WORD,
        },
        "tokenizer.json": {"added_tokens": [{"id": 7, "content": WORD}], "model": {"vocab": {WORD: 7}, "type": WORD}},
        "generation_config.json": {"eos_token_id": [7, WORD], WORD: WORD},
        "adapter_config.json": {"base_model_name_or_path": WORD, "peft_type": WORD, "target_modules": [WORD]},
        "special_tokens_map.json": {"eos_token": WORD},
        "model.safetensors.index.json": {"weight_map": {WORD: WORD}, "metadata": {"total_size": WORD}},
    }  # fmt: skip
    files = {name: json.dumps(value).encode() for name, value in settings.items()}
    header = json.dumps(
        {WORD: {"dtype": FLAT, "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {WORD: WORD}}
    ).encode()
    files["model.safetensors"] = struct.pack("<Q", len(header)) + header + bytes(4)
    files["README.md"] = card().encode("utf-8", "replace")
    manifest = {
        "schema": 1,
        "files": [{"path": WORD, "size": WORD, "sha256": WORD, "git": WORD}],
        "hubkit": WORD,
        "variant": WORD,
    }
    files[".hubkit/manifest.json"] = json.dumps(
        manifest | {"release": WORD, "branch": WORD, "recipe": {"repo": WORD}}
    ).encode()
    files["results.json"] = json.dumps(
        {
            "results": {FLAT: {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": WORD}},
            "versions": {FLAT: 1}, "n-shot": {FLAT: 0}, "config": {"model": WORD}, "model_name": WORD,
            "configs": {FLAT: {"task": FLAT, "metric_list": [{"metric": "acc"}]}},
        }
    ).encode()  # fmt: skip
    files["results.csv"] = f"task,metric,value\n{FLAT.replace(',', '').replace(chr(34), '')},acc,0.5\n".encode(
        "utf-8", "replace"
    )
    return files


def in_yaml(text: str) -> str:
    """``text`` as a word of YAML, without halves of characters, which it cannot hold."""
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text if not "\ud800" <= char <= "\udfff") + '"'


def card() -> str:
    quoted = in_yaml(WORD)
    lists = "".join(f"{key}: [{quoted}]\n" for key in ("tags", "datasets"))
    front = "".join(f"{key}: {quoted}\n" for key in ("license", "license_name", "base_model", "language"))
    front += (
        f"{lists}? {quoted}\n: {quoted}\nmodel-index:\n- name: {quoted}\n  results:\n  - task: {{type: {quoted}}}\n"
    )
    front += f"    dataset: {{name: {quoted}, type: {quoted}}}\n    metrics: [{{type: {quoted}, value: {quoted}}}]\n"
    rows = "".join(f"| {name} | acc | {value} |\n" for name, value in ((FLAT, 0.5), (FLAT, 0.25), ("Average", 0.9)))
    table = f"| Task | Metric | Value |\n|---|---|---|\n{rows}"
    code = f"```python\nprint({FLAT!a})\nraise ValueError({WORD!a})\n```\n```python\nnope({FLAT}\n```\n"
    body = f"[{FLAT}]({FLAT.replace(' ', '')}.md) /home/{FLAT}/x TBD {FLAT}"
    return f"---\n{front}---\n# {FLAT}\n\n## AGIEval {FLAT}\n\n{table}\n{body}\n\n{code}"


def recipe_text() -> str:
    """A recipe that is read, with hostile words where any text is allowed."""
    text = in_yaml(FLAT)
    head = RECIPE_TEXT.replace("repo: me/my-model", "repo: hubkit/hostile").replace(
        "title: My model, summary: It answers.", f"title: {text}, summary: {text}, tags: [{text}], limitations: {text}"
    )
    return head.replace("main: {stage: sft}", f"main: {{stage: sft, title: {text}}}").replace(
        "license: apache-2.0", f"license: other\nlicense_name: {text}\nlicense_link: {text}"
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harm]:
    """Hostile things of every kind, in a folder of a hostile name, and three hostile Hubs."""
    folder = tmp_path_factory.mktemp("harm") / NAME
    write(folder / "model", {**model_files(), NAME: b"x", f"{NAME}.json": b"{", f"{NAME}-/{NAME}.pkl": b"\x80\x04."})
    (folder / "model" / os.fsdecode(b"half \xff\x9b31m")).write_bytes(b"x")
    write(
        folder / "app",
        {
            "app.py": b"x = 1",
            "README.md": b"---\nsdk: gradio\nsdk_version: 6.31.0\n---\n",
            "requirements.txt": FLAT.encode("utf-8", "replace"),
        },
    )
    write(folder, {"hubkit.yaml": recipe_text().encode("utf-8", "replace")})
    write(folder, {"wrong.json": json.dumps({"users": [{"name": WORD, WORD: WORD}]}).encode()})
    wrong = json.dumps(
        {
            WORD: WORD,
            "repo": WORD,
            "license": WORD,
            "base": {"repo": WORD},
            "stages": {WORD: WORD},
            "variants": {WORD: {"stage": WORD}},
        }
    )
    write(folder, {"wrong.yaml": wrong.encode(), f"{NAME}.yaml": b"a: [\n"})
    home = folder / "home"
    about = {"format": 2, "id": WORD, "repo": FLAT, "hub": WORD, "made": WORD}
    step = {"time": WORD, "event": "done", "step": NAME}
    kept = {"step": NAME, "key": WORD, "summary": {"figure": WORD, "warnings": [WORD]}, "seconds": 1.0, "files": []}
    point = {"step": 1, "seconds": 1.0, "loss": 1.0, WORD: 2.0}
    probe = {"step": 1, "stopped": 1, "prompts": 1, "rate": 1.0, "seconds": 1.0}
    curves = {"format": 1, "stage": WORD, "method": WORD, "steps": 2, "off": WORD, "points": [point]}
    curves |= {"probes": [probe], "trackers": [{"name": WORD, "url": WORD}]}
    for run in (f"{NAME}-1", f"{NAME}-2"):
        lines = [step, {**step, "event": "start", "step": f"train[{NAME}]"}]
        write(
            home / "runs" / run,
            {
                "run.json": json.dumps(about).encode(),
                "journal.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines).encode(),
            },
        )
        write(home / "runs" / run / "work" / f"train[{NAME}]" / "scratch", {"curves.json": json.dumps(curves).encode()})
        write(home / "runs" / run / "artifacts" / NAME, {"manifest.json": json.dumps(kept).encode()})
        replaced = {**kept, "made_from": {"settings": {WORD: WORD}, "inputs": {}, "version": 1, "libraries": {}}}
        write(home / "runs" / run / "earlier" / NAME / "1", {"manifest.json": json.dumps(replaced).encode()})
    data = home / "hub"
    running = process.start(data, port=0)
    try:
        fill(running)
        fill_accounts(data)
        with hostile_hub(running.url, WORD) as hubs:
            yield Harm(folder, hubs, running.url, running.token)
    finally:
        process.stop(data)


def fill(running: process.Running) -> None:
    """A repo and a Space with as much harm as the embedded Hub accepts; a client would refuse the card itself."""
    api = HfApi(endpoint=running.url, token=running.token)
    api.create_repo("hubkit/hostile")
    for title in (f"first {FLAT}", "second"):
        files = {**model_files(), "visible\u200bname.txt": b"x", "\ue000.bin": title.encode("utf-8", "replace")}
        files["pytorch_model.bin"] = b"\x80\x04."
        raw_commits.commit(running, "hubkit/hostile", files, title.encode("utf-8", "replace").decode())
    api.create_branch("hubkit/hostile", branch=BRANCH)
    api.create_branch("hubkit/hostile", branch="staging/x")
    api.create_repo("hubkit/app", repo_type="space", space_sdk="static")


def fill_accounts(data: Path) -> None:
    """A user and a token with harm in their texts."""
    accounts = open_accounts(data)
    harm = FLAT.encode("utf-8", "replace").decode()
    accounts.add_user("stranger", fullname=harm)
    accounts.add_org("strangers", fullname=harm)
    accounts.add_token("hubkit", label=harm)


def cases(command: str, harm: Harm) -> list[list[str]]:
    """What ``command`` is called with. A command that is missing here fails its test."""
    repo, hubs = "hubkit/hostile", harm.hubs
    at = [["--hub", url] for url in hubs.values()]
    table: dict[str, list[list[str]]] = {
        "init": [[], [WORD.replace("\x00", "")], ["me/x", "--from", ARG],
                 *(["me/x", "--base", repo, "--data", repo, *hub] for hub in at),
                 ["me/x", "--base", repo, "--data", ARG, *at[0]], ["me/x", "--set", ARG, *at[0]]],
        "plan": [[], ["wrong.yaml"], [f"{NAME}.yaml"], [ARG]],
        "data check": [["wrong.yaml"], [f"{NAME}.yaml"], [ARG]],
        "data show": [["wrong.yaml"], [f"{NAME}.yaml", ARG], [ARG]],
        "release": [["wrong.yaml"], [f"{NAME}.yaml"], [ARG], ["-y", "--hub", hubs["refuses"]]],
        "runs list": [[]],
        "runs show": [[f"{NAME}-1"], [ARG]],
        "runs restore": [[f"{NAME}-1", REPLACED], [f"{NAME}-1", ARG], [ARG, ARG]],
        "runs discard": [[f"{NAME}-1", REPLACED], [f"{NAME}-2", "--all", "-y"], [f"{NAME}-1", ARG], [ARG, ARG]],
        "runs watch": [[f"{NAME}-1"], [f"{NAME}-1", "--all", "--once"], [ARG]],
        "runs remove": [[f"{NAME}-1"], [f"{NAME}-2", "-y"], [ARG]],
        "check": [["model"], [ARG], *([repo, *hub] for hub in at), [repo, "--revision", ARG, *at[0]]],
        "merge": [["model", "model", "-o", "merged"], [ARG, "model", "-o", ARG], ["model", "model", "-o", "model"],
                  *([f"{repo}@{name}", "model", "-o", "m", *hub] for hub in at for name in ("main", ARG))],
        "convert": [["model", "-o", "converted"], [ARG, "-o", "converted"], ["model", "-o", ARG]],
        "gguf": [["model", "-o", "model.gguf"], [ARG, "-o", "model.gguf"], ["model", "-o", ARG],
                 *([f"{repo}@{name}", "-o", "m", *hub] for hub in at for name in ("main", ARG))],
        "readers": [["model", "--with", "transformers"], [ARG], ["model", "--with", "peft-0.6", "--base", ARG],
                    ["model", "--with", "transformers-4"], ["model", "--prompts", ARG],
                    *([f"{repo}@{name}", "--with", "vllm", *hub] for hub in at[1:] for name in ("main", ARG))],
        "verify": [["model"], [ARG], *([repo, *hub] for hub in at), ["model", "--key", ARG],
                   [f"{repo}@{ARG}", "--rederive", *at[0]]],
        "reproduce": [[ARG], *([repo, "-o", "again", *hub] for hub in at), [f"{repo}@{ARG}", *at[0]]],
        "card lint": [["model"], ["model/README.md"], [ARG], *([repo, *hub] for hub in at)],
        "card render": [[], ["wrong.yaml"], ["--variant", ARG]],
        "card run": [["model", "--trust", "--hub", harm.plain], [repo, *at[0]], [repo, *at[2]], [ARG]],
        "card tables": [["model/results.json"], ["model/results.csv"], ["model/README.md"], ["model/config.json"],
                        [ARG],
                        ["model/results.json", "--published", ARG]],
        "rules": [[], [ARG]],
        "revisions list": [[repo, *hub] for hub in at],
        "revisions history": [[repo, "main", *hub] for hub in at] + [[repo, ARG, *at[0]]],
        "revisions diff": [[repo, "main", BRANCH, *hub] for hub in at] + [[repo, "main", f"{'0' * 40}", *at[0]]],
        "revisions bom": [[repo, *hub] for hub in at] + [[repo, ARG, *at[0]], [ARG]],
        "revisions disclosure": [[repo, *hub] for hub in at] + [[repo, ARG, "-o", ARG, *at[0]], [ARG]],
        "revisions create": [[repo, name, "--dry-run", *hub] for hub in at for name in ("new", ARG)]
        + [[repo, "new", *at[0]]],
        "revisions delete": [[repo, name, "--dry-run", *hub] for hub in at for name in (BRANCH, ARG)]
        + [[repo, BRANCH, *at[0]]],
        "revisions tag": [[repo, "v1", "-m", ARG, "--dry-run", *hub] for hub in at] + [[repo, ARG, *at[0]]],
        "revisions promote": [[repo, "main", "staging/x", "--dry-run", *hub] for hub in at]
        + [[repo, "main", BRANCH, *at[0]]],
        "revisions rollback": [[repo, "main", "--dry-run", *hub] for hub in at],
        "revisions prune": [[repo, "--dry-run", *hub] for hub in at] + [[repo, "--days", "0", *at[0]]],
        "space build": [["-o", NAME], ["wrong.yaml", "-o", "x"], [ARG, "-o", "model"]],
        "space run": [["model"], [ARG], [repo, *at[2]], [repo, "--trust", *at[2]]],
        "space deploy": [["app", "hubkit/app", "--visibility", "public", "--no-try", "-y", *at[2]],
                         ["model", "hubkit/app", "--visibility", "public"],
                         ["app", ARG, "--visibility", ARG]],
        "space status": [["hubkit/app", *hub] for hub in at],
        "space logs": [["hubkit/app", *at[0]], ["hubkit/app", "-f", *at[0]], ["hubkit/app", "--build", *at[2]]],
        "space pause": [["hubkit/app", *hub] for hub in at] + [["hubkit/app", "-y", *at[0]], [ARG, "-y", *at[0]]],
        "space restart": [["hubkit/app", "--timeout", "1", *hub] for hub in at] + [[ARG, *at[0]]],
        "space rollback": [["hubkit/app", "--dry-run", *hub] for hub in at] + [["hubkit/app", "--to", ARG, *at[0]]],
        "hub start": [["--port", "1"], ["--port", ARG], ["--seed", "wrong.json"], ["--seed", ARG]],
        "hub stop": [[ARG]],
        "hub status": [[]],
        "hub open": [[ARG]],
        "hub fsck": [[]],
        "hub gc": [["--dry-run"], ["--data", ARG]],
        "hub backup": [[f"{NAME}-backup"], [ARG, "--previous", ARG], [f"{NAME}-backup"]],
        "hub restore": [[NAME], [ARG], [NAME, "--data", ARG]],
        "hub user add": [[ARG], ["visitor", "--fullname", ARG]],
        "hub user list": [[]],
        "hub user remove": [[ARG]],
        "hub org add": [[ARG], ["visitors", "--member", f"hubkit={ARG}"], ["crowd", "--fullname", ARG]],
        "hub org list": [[]],
        "hub org remove": [[ARG]],
        "hub org member": [[ARG, ARG, "read"]],
        "hub token add": [["hubkit", "--allow", ARG], [ARG], ["hubkit", "--from-file", ARG]],
        "hub token list": [[ARG], ["hubkit"]],
        "hub token remove": [["hubkit", ARG]],
        "doctor": [["--hub", url] for url in (hubs["texts"], hubs["refuses"], ARG)],
        "completion bash": [[]],
        "completion zsh": [[]],
        "completion fish": [[]],
        "completion install": [["--shell", "bash"], ["--shell", ARG]],
    }  # fmt: skip
    return [[*command.split(), *args] for args in table[command]]


SILENT = {"hub fsck", "hub stop", "completion bash", "completion zsh", "completion fish"}
"""Commands that show no text of others; that they show none is seen all the same."""


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What several commands import, once for all their forks."""
    import torch  # noqa: F401 - by `hubkit doctor`, for the devices


@pytest.mark.parametrize("command", COMMANDS)
def test_no_text_of_others_steers(command: str, harm: Harm) -> None:
    variables = {"HUBKIT_HOME": str(harm.folder / "home"), "HF_TOKEN": harm.token, "HF_ENDPOINT": harm.hubs["texts"]}
    variables |= {"BROWSER": "false", "HOME": str(harm.folder), "PATH": os.environ["PATH"]}
    shown = 0
    for number, args in enumerate(cases(command, harm)):
        # The first way to call it is tried on a terminal and in a pipe, the others in turn.
        for terminal in (True, False) if not number and command != "plan" else (number % 2 == 0,):
            as_json = [] if terminal else [["--json"], []][sum(map(ord, args[-1])) % 2]
            run = command_line(*args, *as_json, folder=harm.folder, environment=variables)
            code, text = run_forked(run, terminal=terminal, answer=b"n\n" if terminal else b"")
            assert code in {0, 1, 2, 3, 4, 5, 130}, (args, code, text[-3000:])
            report = harm.folder / "home" / "traceback.log"
            assert "bug in hubkit" not in text, (args, report.read_text(encoding="utf-8", errors="replace")[-3000:])
            assert not steering(text, terminal=terminal), (args, steering(text, terminal=terminal)[:5])
            assert not commands_in(text), (args, commands_in(text)[:5])
            shown += any(mark in text for mark in ("\N{REPLACEMENT CHARACTER}", "\\u001b", "\\x1b", "\\udc9b"))
    assert shown or command in SILENT, f"{text[-1500:]!r}\nnothing hostile was shown: the command is not really tried"


def test_a_real_process_on_a_real_terminal(harm: Harm) -> None:
    """What libraries print by themselves too: the Hub sends a warning that huggingface_hub logs."""
    args = [HUBKIT, "revisions", "list", "hubkit/hostile", "--hub", harm.hubs["texts"]]
    variables = {**environment(harm.folder / "home"), "TERM": "xterm"}
    variables.pop("NO_COLOR")

    def run() -> None:
        raise SystemExit(subprocess.run(args, env=variables, cwd=harm.folder).returncode)

    code, text = run_forked(run, terminal=True)
    assert code == 0 and "in a warning" in text and "\x1b[" in text
    assert not steering(text, terminal=True) and not commands_in(text)
