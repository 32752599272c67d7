"""The app of a Space, running as a real process on a real Hub, and its parts; and a browser for its screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chromium import browser
from commands import until

from hubkit.core.processes.app import App, environment
from hubkit.core.processes.logs import log_tail
from hubkit.core.processes.ports import free_port
from hubkit.publishing.spaces import building

__all__ = ["browser"]

EOS, IM_END, HOSTILE = 257, 260, 261
HOSTILE_TEXT = (
    '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
    "${document.title='owned'}{{constructor}}<b>bold</b>[link](javascript:document.title='owned')"
)
SIZE = 288  # hidden; a basis vector for each of the 262 tokens
TITLES = {"main": "Ends its turns", "runs-on": "Never ends", "odd": "Random", "hostile": "Says <b>markup</b>"}


@dataclass(frozen=True)
class Release:
    """What was published: where, and the same files in folders."""

    base: Path
    folders: dict[str, Path]
    told: dict[str, Any]


@pytest.fixture(scope="package")
def release(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any, make_model: Any
) -> Iterator[tuple[Release, Any]]:
    """A base and four revisions of it on an embedded Hub.

    The base hands each token's own vector through to the head. An adapter on the head then is a table from a token to
    the next one, so that it is known what each revision says; "odd" has random adapters everywhere instead.
    """
    import torch
    from huggingface_hub import HfApi
    from peft import LoraConfig, get_peft_model

    from hubkit.server import process

    root = tmp_path_factory.mktemp("release")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([HOSTILE_TEXT])
    assert tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>", HOSTILE_TEXT]) == [EOS, IM_END, HOSTILE]

    def base() -> Any:
        model = make_model(vocab_size=262, hidden_size=SIZE, num_hidden_layers=8, max_position_embeddings=8192)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.eye(262, SIZE))
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
        return model

    def byte(letter: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(letter))[0])

    def table(says: list[int]) -> Any:
        model = get_peft_model(base(), LoraConfig(r=SIZE, lora_alpha=SIZE, target_modules=["lm_head"]))
        head = model.base_model.model.lm_head
        with torch.no_grad():
            head.lora_A["default"].weight.copy_(torch.eye(SIZE))
            head.lora_B["default"].weight.zero_()
            for now, following in zip([byte("\n"), *says], says, strict=False):
                head.lora_B["default"].weight[following, now] = 100.0
        return model

    odd = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    paris, circle = [byte(letter) for letter in "Paris."], [byte(letter) for letter in "la, "]
    made = {
        "main": table([*paris, IM_END]),
        "runs-on": table([*circle, circle[0]]),
        "odd": get_peft_model(base(), odd),
        "hostile": table([HOSTILE, EOS]),
    }
    folders = {name: root / name for name in (*made, "base")}
    base().save_pretrained(folders["base"])
    for name, model in made.items():
        tokenizer.save_pretrained(folders[name])
        model.save_pretrained(folders[name] / "adapter", save_embedding_layers=False)

    hub = process.start(root / "hub", port=0)
    api = HfApi(endpoint=hub.url, token=hub.token)
    for repo in ("me/base", "me/tuned"):
        api.create_repo(repo, private=False)
    commits = {}
    for name, folder in folders.items():
        repo, branch = ("me/base", "main") if name == "base" else ("me/tuned", name)
        api.create_branch(repo, branch=branch, exist_ok=True)
        commits[name] = api.upload_folder(repo_id=repo, folder_path=folder, revision=branch).oid
    told = {
        "title": "Tuned & tried",
        "repo": "me/tuned",
        "base": {"repo": "me/base", "commit": commits["base"]},
        "dtype": "float32",
        "end_of_turn": {"id": IM_END, "token": "<|im_end|>"},
        "max_new_tokens": 24,
        "revisions": [
            {"name": name, "commit": commits[name], "title": title, "stop_rate": {"stopped": 7, "prompts": 8}}
            for name, title in TITLES.items()
        ],
        "prompts": ["Where is Paris?", "Say something."],
        "hostile_text": HOSTILE_TEXT,
        "base_stop_rate": {"stopped": 0, "prompts": 8},
        "answers": [
            {"prompt": "Where is Paris?", "revision": name, "answer": text, "ended": ended, "tokens": tokens}
            for name, text, ended, tokens in (
                ("base", "Where is Par", "limit", 12),
                ("main", "In *France*.", "eos", 13),
                ("runs-on", "la", "limit", 2),
            )
        ],
        "benchmarks": {"columns": ["base", "main"], "rows": [["arc_easy", "0.2500 ± 0.0100", None]]},
    }
    yield Release(folders.pop("base"), folders, told), hub
    process.stop(root / "hub")


FAILING_SEED = 13
SLOW_TO_LOAD = """
import sys, time
from pathlib import Path

import app, loading, models

answers, load = models.Models.answers, loading._load

def failing(self, asked, settings):
    for place, found in enumerate(answers(self, asked, settings)):
        if settings.seed == FAILING_SEED and found[0].tokens > 2:
            raise RuntimeError("out of <b>memory</b>")
        yield found

def patient(release, report):
    report("Loading main")
    while not Path("go").exists():
        time.sleep(0.05)
    return load(release, report)

models.Models.answers, loading._load = failing, patient
app.main()
""".replace("FAILING_SEED", str(FAILING_SEED))
"""The app, but it loads once there is a file ``go``, and with one seed its model fails in mid-answer."""


@pytest.fixture(scope="package")
def starting(release: tuple[Release, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, Path]]:
    """The app on files copied as a Space has them, before its models are loaded; and the file that lets them load."""
    published, hub = release
    root = tmp_path_factory.mktemp("space")
    folder = root / "app"
    building.copy_app(folder)
    (folder / "release.json").write_text(json.dumps(published.told), encoding="utf-8")
    (folder / "slow.py").write_text(SLOW_TO_LOAD, encoding="utf-8")
    port = free_port()
    more = {"HF_ENDPOINT": hub.url}
    running = App.start(
        folder, "slow.py", port=port, environment=environment(root / "home", port, more), log=root / "log"
    )
    try:
        until(lambda: running.answers() or running.code() is not None, 120)
        assert running.code() is None, "\n".join(log_tail(root / "log"))
        yield running, folder / "go"
    finally:
        running.stop()


@pytest.fixture(scope="package")
def app(starting: tuple[App, Path]) -> App:
    """The app with its models loaded."""
    from gradio_client import Client

    running, go = starting
    go.touch()
    asking = Client(running.url, verbose=False)
    until(lambda: asking.predict(api_name="/status")["state"] != "loading", 120)
    assert asking.predict(api_name="/status") == {"state": "ready", "message": ""}
    return running


@pytest.fixture(scope="package")
def client(app: App) -> Any:
    from gradio_client import Client

    return Client(app.url, verbose=False)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The module ``app``, imported as the app imports itself: its folder first on the path."""
    building.copy_app(tmp_path / "parts")
    monkeypatch.syspath_prepend(str(tmp_path / "parts"))
    import app

    yield app
    for path in building.app_folder().glob("*.py"):
        sys.modules.pop(path.stem, None)
    sys.modules.pop("number_format", None)
