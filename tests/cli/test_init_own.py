"""`hubkit init --base ... --data ...` against a Hub with a base and data: what it writes can be planned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json
from huggingface_hub import HfApi
from terminals import run_forked

from hubkit.recipe.loading import load_recipe

BASE, PAIRS, CHATS = "hubkit/Small-Chat-Instruct", "hubkit/pairs", "hubkit/chats"
CARD = "---\nlicense: cc-by-nc-4.0\nlanguage: [de]\n---\n# A base\n"


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]
) -> Iterator[Path]:
    """The home of an embedded Hub that has a base with a card, preference pairs and chats."""
    home = tmp_path_factory.mktemp("init") / "home"
    url = hubkit_json("hub", "start", home=home)["url"]
    base = home.parent / "base"
    make_model(max_position_embeddings=512).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    (base / "README.md").write_text(CARD)
    ask = [{"role": "user", "content": "Wie spät ist es?"}]
    pairs = [{"question": f"Frage {n}", "chosen": "ja", "rejected": "nein " * 20} for n in range(60)]
    chats = [{"messages": [*ask, {"role": "assistant", "content": f"{n} Uhr"}]} for n in range(300)]
    api = HfApi(endpoint=url, token=(home / "hub" / "owner.token").read_text().strip())
    api.create_repo(BASE)
    api.upload_folder(repo_id=BASE, folder_path=base)
    for repo, rows in ((PAIRS, pairs), (CHATS, chats), ("hubkit/odd", [{"a": 1}]), ("hubkit/empty", chats[:0])):
        api.create_repo(repo, repo_type="dataset")
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="train.jsonl", repo_id=repo, repo_type="dataset")
    yield home
    hubkit("hub", "stop", home=home)


def test_it_writes_what_base_and_data_say_and_it_plans(home: Path, tmp_path: Path) -> None:
    made = hubkit("init", "me/mein-modell", "--base", BASE, "--data", PAIRS, "--data", CHATS, home=home, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    recipe = load_recipe(tmp_path / "hubkit.yaml")
    assert (recipe.repo, recipe.base.repo, recipe.base.dtype) == ("me/mein-modell", BASE, "float32")
    assert (recipe.license, recipe.card.language, recipe.hub) == ("cc-by-nc-4.0", ("de",), "embedded")
    assert {name: [(item.repo, item.mapping) for item in items] for name, items in recipe.data.items()} == {
        "pairs": [(PAIRS, "orca")], "chats": [(CHATS, "messages")],
    }  # fmt: skip
    assert recipe.gates.stop_rate.prompts == 32
    text = (tmp_path / "hubkit.yaml").read_text()
    assert "# MistralForCausalLM with " in text and "# 300 rows; columns: messages" in text
    plan = hubkit_json("plan", home=home, cwd=tmp_path)
    assert [item["branch"] for item in plan["branches"]] == ["dpo-v0", "main"]


def test_the_repo_may_be_left_out_and_values_set(home: Path, tmp_path: Path) -> None:
    options = ("--base", BASE, "--data", CHATS, "--set", "stages.sft.args.max_steps=7")
    url = hubkit_json("hub", "status", home=home)["url"]
    assert hubkit("init", *options, home=home, cwd=tmp_path, HF_ENDPOINT=url).returncode == 0
    recipe = load_recipe(tmp_path / "hubkit.yaml")
    assert recipe.hub == "embedded"  # its address is of this start only
    assert recipe.repo == "hubkit/Small-Chat-Instruct-sft" and recipe.stages["sft"].args["max_steps"] == 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--base", BASE], "A recipe of your own needs --data; questions need a terminal."),
        (["--data", PAIRS], "A recipe of your own needs --base; questions need a terminal."),
        (["--hub", "embedded"], "A recipe of your own needs --base and --data; questions need a terminal."),
        (["--base", "nothing", "--data", PAIRS], "--base 'nothing' is not a repo id"),
        (["--base", "hubkit/none", "--data", PAIRS], "hubkit/none"),
        (["--base", BASE, "--data", "hubkit/none"], "hubkit/none"),
        (["--base", BASE, "--data", "hubkit/odd"], "No mapping fits the columns of hubkit/odd: a."),
        (["--base", BASE, "--data", "hubkit/empty"], "it has no rows"),
        (["--base", BASE, "--data", PAIRS, "--set", "stages.dpo.args=x"], "stages.dpo.args"),
        (["--base", BASE, "--data", PAIRS, "--from", "tiny"], "--from copies a built-in recipe"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_a_sentence(
    options: list[str], sentence: str, home: Path, tmp_path: Path
) -> None:
    done = hubkit("init", "me/x", *options, home=home, cwd=tmp_path)
    assert done.returncode in {2, 3} and sentence in " ".join(done.stderr.split()), done.stderr
    assert not list(tmp_path.iterdir())


def test_at_a_terminal_it_asks(home: Path, tmp_path: Path) -> None:
    def run() -> None:
        os.chdir(tmp_path)
        os.execve(HUBKIT, [str(HUBKIT), "init"], environment(home))

    answers = f"{BASE}\n{CHATS}\n\nembedded\nme/typed\n".encode()
    code, text = run_forked(run, terminal=True, answer=answers)
    assert code == 0, text
    assert "Base model (namespace/name)" in text and "Dataset or file to train on" in text
    assert load_recipe(tmp_path / "hubkit.yaml").repo == "me/typed"
