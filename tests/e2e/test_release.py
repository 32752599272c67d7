"""One whole release, as a user runs it, stopped in training, in publishing and between two branches.

The release is made once, by the real command, in a fresh folder; the tests look at what it left from every side.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, read_until
from tiny_release import REPO, Released

from hubkit_stages.recipes import tiny

pytestmark = [pytest.mark.train, pytest.mark.timeout(1500)]


@pytest.mark.fault("F1")
def test_each_step_was_done_once_whatever_was_killed(released: Released) -> None:
    done = Counter(line["step"] for line in released.journal() if line["event"] == "done")
    assert set(done.values()) == {1}, done
    assert {"train[dpo]", "train[sft]", "publish[main]", "promote", "space"} <= set(done)


def test_both_variants_were_merged_in_one_pass_over_the_base(released: Released) -> None:
    merges = [line for line in released.journal() if line.get("step", "").startswith("merge[")]
    assert [line["event"] for line in merges] == ["start", "start", "done", "done"]
    assert len({line["seconds"] for line in merges[2:]}) == 1, "each has half of the time"


@pytest.mark.fault("F1")
def test_training_went_on_from_its_checkpoint(released: Released) -> None:
    assert released.artifact("train[dpo]", "training.json")["resumed_from"], "it began again from nothing"


@pytest.mark.fault("F2")
def test_a_signal_in_training_leaves_a_run_that_goes_on(released: Released) -> None:
    assert released.interrupted == 130
    assert released.artifact("train[sft]", "training.json")["resumed_from"], "it began again from nothing"
    stops = [line["error"] for line in released.journal() if line["event"] == "stopped"]
    assert stops[0] == "KeyboardInterrupt", "the journal says what ended it"


@pytest.mark.fault("F1")
def test_no_branch_moved_before_all_were_verified(released: Released) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=released.url, token=False)
    assert "dpo-v0" not in released.refs_after_staging
    first = api.list_repo_commits(REPO, revision="main")[-1].commit_id
    assert released.refs_after_staging["main"] == first


@pytest.mark.fault("F1")
def test_main_moves_last_and_an_interruption_rolls_forward(released: Released) -> None:
    moved = {line["variant"]: line for line in released.outcome["variants"]}
    assert released.refs_between_branches["dpo-v0"] == moved["dpo-v0"]["commit"], "moved before the kill, once"
    assert released.refs_between_branches["main"] != moved["main"]["commit"]
    refs = released.refs()
    assert refs == {name: line["commit"] for name, line in moved.items()}, "no staging branch stays"
    from huggingface_hub import HfApi

    api = HfApi(endpoint=released.url, token=False)
    assert len(api.list_repo_commits(REPO, revision="main")) == 2, "the first commit, and one for the release"


def test_the_stop_rates_are_those_of_the_story(released: Released) -> None:
    assert released.outcome["base_stop_rate"] >= 0.95
    rates = {line["variant"]: line["stop_rates"] for line in released.outcome["variants"]}
    for form in ("merged", "adapter"):
        assert rates["dpo-v0"][form] <= 0.5, "the DPO-only variant should have lost its turn end"
        assert rates["main"][form] >= 0.95
    gates = released.artifact("gate", "gates.json")["variants"]
    assert gates["main"]["passed"] and not gates["dpo-v0"]["passed"]


@pytest.mark.fault("P3")
def test_a_second_release_does_nothing(released: Released) -> None:
    refs, lines = released.refs(), len(released.journal())
    log = released.home / "hub" / "log" / "hub.log"
    before = log.stat().st_size if log.exists() else 0
    began = time.monotonic()
    done = hubkit("release", "tiny", home=released.home)
    seconds = time.monotonic() - began
    assert done.returncode == 0
    assert "is up to date" in done.stdout and released.outcome["variants"][0]["commit"][:12] in done.stdout
    assert released.refs() == refs and len(released.journal()) == lines
    if log.exists():
        with log.open("rb") as file:
            file.seek(before)
            asked = file.read().decode()
        assert not [line for line in asked.splitlines() if '"POST' in line and "/commit/" in line], asked
    assert seconds < 30, "it should take seconds"


def test_strangers_load_both_revisions_and_see_what_the_card_says(released: Released, tmp_path: Path) -> None:
    data = released.run / "artifacts" / "data" / "prompts.jsonl"
    chats = [json.loads(line)["messages"] for line in data.read_text(encoding="utf-8").splitlines()]
    prompts = [chat[-1]["content"] for chat in chats if len(chat) == 1][:24]
    end_of_turn = released.artifact("base", "base.json")["end_of_turn"]["id"]
    assert len(prompts) == 24
    request = {
        "repo": REPO,
        "base": "hubkit/tiny-hermes",
        "revisions": ["dpo-v0", "main"],
        "prompts": prompts,
        "max_new_tokens": 64,
        "end_of_turn": end_of_turn,
    }
    bare = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": released.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    asked = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("stranger.py"))],
        input=json.dumps(request),
        env=bare,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert asked.returncode == 0, asked.stderr
    seen = json.loads(asked.stdout)
    assert seen["main"]["stopped"] >= 0.9 * len(prompts)
    assert seen["dpo-v0"]["stopped"] <= 0.5 * len(prompts)
    for revision in ("main", "dpo-v0"):
        found = seen[revision]
        assert found["dtype"] == "torch.bfloat16"
        assert found["agreement"] >= 0.995, "adapter on base and merged weights answer alike"
        assert end_of_turn in [found["generation_eos"]] or end_of_turn in found["generation_eos"]
        assert found["rendered"] == (
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
        )
        card = found["card"]
        assert card["base_model"] in ("hubkit/tiny-hermes", ["hubkit/tiny-hermes"])
        assert card["license"] == "apache-2.0"
        assert {"Intel/orca_dpo_pairs", "argilla/ultrafeedback-binarized-preferences"} <= set(card["datasets"])
        assert card["model-index"], "the measured scores are in the metadata"


def test_hf_downloads_a_revision(released: Released, tmp_path: Path) -> None:
    client = Path(sys.executable).with_name("hf")
    bare = {"PATH": os.environ["PATH"], "HF_ENDPOINT": released.url, "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path)}
    subprocess.run(
        [client, "download", REPO, "--revision", "dpo-v0", "--local-dir", str(tmp_path / "got")],
        env=bare,
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert (tmp_path / "got" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "got" / "adapter_config.json").exists(), "loaders would attach the adapter twice"


def test_what_the_hub_holds_is_what_was_made(released: Released, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    for line in released.outcome["variants"]:
        folder = snapshot_download(
            REPO, revision=line["commit"], endpoint=released.url, token=False, cache_dir=tmp_path / "cache"
        )
        merged = released.run / "artifacts" / f"merge[{line['variant']}]" / "model"
        for path in merged.iterdir():
            assert (Path(folder) / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_number_of_the_cards_stands_in_a_result_file(released: Released) -> None:
    from hubkit.cards.trace import untraced

    for variant in ("dpo-v0", "main"):
        folder = released.run / "artifacts" / f"card[{variant}]"
        numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        for card in ("README.md", "adapter-README.md"):
            assert len(numbers[card]) > 10
            text = (folder / card).read_text(encoding="utf-8")
            assert list(untraced(text, numbers[card], released.artifact)) == []
            for number in numbers[card]:
                found = released.artifact(number["step"], number["file"])
                for key in number["pointer"].split("/")[1:]:
                    key = key.replace("~1", "/").replace("~0", "~")
                    found = found[int(key)] if isinstance(found, list) else found[key]
                assert found == number["value"], number


def test_the_cards_tell_the_story(released: Released) -> None:
    cards = {
        variant: (released.run / "artifacts" / f"card[{variant}]" / "README.md").read_text(encoding="utf-8")
        for variant in ("dpo-v0", "main")
    }
    assert "**Use `main`**, this branch." in cards["main"] and ", not this branch (`dpo-v0`)." in cards["dpo-v0"]
    assert "> [!WARNING]" in cards["dpo-v0"] and "## Known issue: answers run on" in cards["dpo-v0"]
    assert "## Why there are two branches" in cards["main"]
    for card in cards.values():
        assert "128 of 128" in card
        assert "truncated" in card or "cuts the end-of-turn token" in card, (
            "the finding that was let pass is said aloud"
        )
        assert "hubkit/tiny-hermes" in card and "Provenance" in card
        assert str(released.home) not in card


@pytest.mark.fault("S11")
def test_no_token_is_left_anywhere(released: Released) -> None:
    from hubkit.server import process

    running = process.status(released.home / "hub")
    assert running is not None and len(running.token) > 20
    token = running.token.encode()
    for folder in (released.run, released.home / "hf"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert token not in path.read_bytes(), path
    assert running.token not in released.said


@pytest.mark.parametrize("variant", ["dpo-v0", "main"])
def test_every_python_block_ran_against_the_staged_commit(released: Released, variant: str) -> None:
    said = released.artifact(f"snippets[{variant}]", "snippets.json")
    assert said["commit"] == released.artifact(f"publish[{variant}]", "published.json")["commit"]
    assert {item["card"] for item in said["blocks"]} == {"README.md", "adapter/README.md"}
    for item in said["blocks"]:
        assert (item["outcome"], item["revision"]) == ("passed", said["commit"]), item
        assert item["output"], "it prints the answer"


@pytest.mark.parametrize("branch", ["dpo-v0", "main"])
def test_lint_finds_nothing_on_the_cards(released: Released, branch: str) -> None:
    found = hubkit_json("card", "lint", REPO, "--revision", branch, home=released.home)
    assert (found["faults"], found["unchecked"]) == ([], [])


def test_anybody_can_run_the_blocks_of_the_released_card(released: Released) -> None:
    found = hubkit_json("card", "run", REPO, "--revision", "dpo-v0", home=released.home)
    assert {item["outcome"] for item in found["blocks"]} == {"passed"}
    assert {item["revision"] for item in found["blocks"]} == {released.refs()["dpo-v0"]}


def test_runs_and_plan_show_what_was_made(released: Released) -> None:
    (about,) = hubkit_json("runs", "list", home=released.home)
    assert about["state"] == "released" and about["repo"] == REPO
    shown = hubkit_json("runs", "show", about["id"], home=released.home)
    assert {step["step"] for step in shown["steps"]} >= {"merge[main]", "promote"}
    plan = hubkit_json("plan", "tiny", home=released.home)
    assert all(step["kept"] for step in plan["steps"]), "nothing is left to do"


@pytest.mark.parametrize("variant", ["dpo-v0", "main"])
def test_card_render_prints_the_cards_of_the_release(released: Released, variant: str) -> None:
    for option, name in ((), "README.md"), (("--adapter",), "adapter-README.md"):
        shown = hubkit_json("card", "render", "tiny", "--variant", variant, *option, home=released.home)
        assert shown["measured"] and shown["numbers"]
        assert shown["text"] == (released.run / "artifacts" / f"card[{variant}]" / name).read_text(encoding="utf-8")
    done = hubkit("card", "render", "tiny", "--variant", variant, "--dataset", home=released.home)
    assert done.returncode == 0 and "held out" in done.stdout and "placeholder" not in done.stderr


def test_revisions_tell_the_release(released: Released) -> None:
    listed = {item["name"]: item for item in hubkit_json("revisions", "list", REPO, home=released.home)}
    assert {"main", "dpo-v0"} <= set(listed)
    rates = {line["variant"]: line for line in released.outcome["variants"]}
    for name in ("main", "dpo-v0"):
        assert listed[name]["kind"] == "variant"
        assert listed[name]["stop_rates"]["merged"] == pytest.approx(rates[name]["stop_rates"]["merged"])
        assert listed[name]["average"] == pytest.approx(rates[name]["average"])


def test_check_finds_nothing_wrong_with_main(released: Released) -> None:
    report = hubkit_json("check", REPO, home=released.home)
    assert not [finding for finding in report["findings"] if finding["level"] == "error"], report
    assert report["measured"]["merged"] == {"rate": 1.0, "stopped": 128, "prompts": 128}
    (finding,) = (
        finding
        for finding in hubkit_json("check", REPO, "--revision", "dpo-v0", home=released.home)["findings"]
        if finding["rule"] == "stop-rate"
    )
    assert "0 of 128 answers stopped within 64 new tokens (merged weights, adapter" in finding["message"]


@pytest.mark.fault("S11")
def test_a_token_without_rights_is_refused_before_any_training(released: Released, tmp_path: Path) -> None:
    from hubkit.server.accounts.accounts import open_accounts

    accounts = open_accounts(released.home / "hub")
    accounts.add_user("reader")
    token = accounts.add_token("reader", role="read")
    home = tmp_path / "home"
    hubkit("init", "reader/my-model", home=home, cwd=tmp_path)
    recipe = tmp_path / "hubkit.yaml"
    text = recipe.read_text(encoding="utf-8").replace("hub: embedded", f"hub: {released.url}")
    recipe.write_text(text.replace("provide: tiny", ""), encoding="utf-8")
    done = hubkit("release", home=home, cwd=tmp_path, HF_ENDPOINT=released.url, HF_TOKEN=token)
    assert done.returncode == 3, done.stderr
    assert "Cannot publish to reader/my-model: the token of reader is read-only" in done.stderr
    assert not list(home.glob("runs/*/artifacts/*"))
    assert token not in done.stdout + done.stderr
    assert not [path for path in home.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


@pytest.mark.fault("F2")
def test_a_signal_ends_a_release_with_its_code(released: Released, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = subprocess.Popen(
        [HUBKIT, "release", "tiny"], env=environment(home), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert command.stderr is not None
    read_until(command.stderr, "preflight")
    command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=30)
    hubkit("hub", "stop", home=home)
    assert command.returncode == 143 and "Run the same command again" in said


def test_the_rows_of_the_release_are_checked_and_shown(released: Released, tmp_path: Path) -> None:
    told = hubkit_json("data", "check", "tiny", home=released.home)
    assert told["sets"]["repair"]["sources"][0]["held_out"] == told["prompts"]["rows"] == 128
    assert told["overlap"] == {"questions": 164, "overlapping": 0, "tasks": []}
    shown = hubkit_json("data", "show", "tiny", "repair", home=released.home)
    assert list(shown) == ["sft"] and len(shown["sft"]) == 3
    # Of a recipe that no run has prepared, only the data is prepared, in a folder that does not stay.
    text = (tiny.RECIPE).read_text().replace("rows: 300}", "rows: 60, eval: 0.1}").replace("truncated-end-of-turn", "")
    recipe = tmp_path / "hubkit.yaml"
    recipe.write_text(text)
    shutil.copytree(tiny.RECIPE.parent / "tasks", tmp_path / "tasks")
    before = sorted(released.home.iterdir())
    done = hubkit("data", "check", str(recipe), home=released.home)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "cuts the end-of-turn token" in done.stdout
    assert re.search(r"repair +teknium/openhermes \(instruction\) +656 +656 +128 +6 +54 ", done.stdout)
    assert sorted(released.home.iterdir()) == before
