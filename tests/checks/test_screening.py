"""Screening: what is planted is found in every kind of file and never shown, and clean trees are clean."""

from __future__ import annotations

import base64
import io
import json
import random
import string
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.checks.screening import local_paths, screen, screen_file, screen_names, secrets, text
from hubkit.core.findings import Finding
from hubkit.core.names import path_problem

LETTERS = string.ascii_letters + string.digits


def random_word(length: int, letters: str = LETTERS, seed: int = 7) -> str:
    return "".join(random.Random(f"{seed}{length}{letters}").choices(letters, k=length))


HEX = string.hexdigits[:16]
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"somebody","iat":1516239022}', random_word(32).encode())
)
SECRETS = {
    "hub": "hf_" + random_word(34),
    "hub organisation": "api_org_" + random_word(34),
    "hub oauth": "hf_oauth_eyJ" + random_word(60) + "9A",
    "hub ci": "hf_jwt_eyJ" + random_word(60) + "9A",
    "github": "ghp_" + random_word(36),
    "github fine-grained": "github_pat_" + random_word(22) + "_" + random_word(59),
    "aws id": "AKIA" + random_word(16, string.ascii_uppercase + string.digits),
    "aws key": "aws_secret_access_key = " + random_word(40),
    "openai": "sk-proj-" + random_word(80),
    "openai legacy": "sk-" + random_word(48),
    "anthropic": "sk-ant-api03-" + random_word(93),
    "wandb env": "WANDB_API_KEY=" + random_word(40, HEX),
    "wandb login": "wandb login " + random_word(40, HEX),
    "wandb netrc": "machine api.wandb.ai\n  login user\n  password " + random_word(40, HEX),
    "wandb yaml": "wandb:\n  project: x\n  key: " + random_word(40, HEX),
    "wandb v1": "wandb_v1_" + random_word(77),
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "pgp key": "-----BEGIN PGP PRIVATE KEY BLOCK-----",
    "url": "postgresql://admin:" + random_word(12) + "@db.internal:5432/x",
    "url with token": "https://me:" + random_word(20) + "@git.host.org/me/x",
    "google": "AIza" + random_word(35),
    "groq": "gsk_" + random_word(52),
    "replicate": "r8_" + random_word(37),
    "kaggle": json.dumps({"kaggle": {"username": "me", "key": random_word(32, HEX)}}),
    "telegram": "1234567890:AA" + random_word(33),
    "discord": "M" + random_word(25) + "." + random_word(6) + "." + random_word(27),
    "named": "MISTRAL_API_KEY=" + random_word(32),
    "gitlab": "glpat-" + random_word(20),
    "slack": "xoxb-123456789012-1234567890123-" + random_word(24),
    "stripe": "sk_live_" + random_word(24),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + random_word(80),
    "jwt": JWT,
    "sendgrid": "SG." + random_word(22) + "." + random_word(43),
}


def notebook(secret: str) -> bytes:
    image = base64.b64encode(random.Random(1).randbytes(200_000)).decode()
    cells = [
        {"cell_type": "code", "source": ["import os\n", f"key = '{secret}'\n"], "outputs": []},
        {"cell_type": "code", "source": [], "outputs": [{"output_type": "display_data", "data": {"image/png": image}}]},
    ]
    return json.dumps({"cells": cells, "nbformat": 4, "metadata": {}}).encode()


def output_of_notebook(secret: str) -> bytes:
    said = json.dumps({"nested": json.dumps({"line": f"first\n{secret}\nlast"})})
    outputs = [{"output_type": "stream", "name": "stdout", "text": [said]}]
    return json.dumps({"cells": [{"cell_type": "code", "source": [], "outputs": outputs}]}).encode()


def escaped(secret: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" if not letter.isalnum() or letter in "ks" else letter for letter in secret)


def weights_with(secret: str) -> bytes:
    header = json.dumps({"__metadata__": {"note": secret}, "w": tensor([2])}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def tensor(shape: list[int], dtype: str = "F32", begin: int = 0, size: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}


FILES: dict[str, Callable[[str], bytes]] = {
    "README.md": lambda secret: f"---\nlicense: mit\n---\n# Model\n\nUse `{secret}` to log in.\n".encode(),
    "chinese.md": lambda secret: f"令牌{secret}。".encode(),
    "config.json": lambda secret: json.dumps({"a": [{"b": secret}]}).encode(),
    "nested.json": lambda secret: json.dumps({"a": json.dumps({"b": json.dumps(["x\n" + secret])})}).encode(),
    "escaped.json": lambda secret: f'{{"a": "{escaped(json.dumps(secret)[1:-1])}"}}'.encode(),
    "escaped.yaml": lambda secret: f'a: "{escaped(json.dumps(secret)[1:-1])}"\n'.encode(),
    "x.yaml": lambda secret: yaml.safe_dump({"a": {"b": ["x", secret]}}, width=10_000).encode(),
    "work.ipynb": notebook,
    "printed.ipynb": output_of_notebook,
    "rows.jsonl": lambda secret: b'{"a": 1}\n' * 200_000 + json.dumps({"b": secret}).encode() + b"\n",
    "long.txt": lambda secret: b"x " * 1_000_000 + secret.encode() + b" y" * 100_000,
    "edge.txt": lambda secret: b"." * (text.BLOCK - 5) + b" " + secret.encode() + b" " + b"." * 100,
    "windows.txt": lambda secret: f"令牌：{secret}\r\n".encode("utf-16"),
    "bare.txt": lambda secret: f"the key is {secret}\r\n".encode("utf-16-le"),
    "wide.txt": lambda secret: f"the key is {secret}\r\n".encode("utf-32"),
    "app.py": lambda secret: f'KEY = """{secret}"""\n'.encode(),
    "LICENSE": lambda secret: f"MIT\n{secret}".encode(),
    "tokenizer.json": lambda secret: json.dumps({"model": {"vocab": {"a": 1, secret: 2}}}).encode(),
    "chat_template.jinja": lambda secret: f"{{# {secret} #}}".encode(),
    "model.gguf": lambda secret: b"GGUF" + bytes(64) + secret.encode() + bytes(64),
    "broken.json": lambda secret: f'{{"a": "{secret}'.encode(),
    "model.safetensors": weights_with,
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.fault("S4")
def test_every_kind_of_secret_is_found_in_a_plain_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_text(f"one\ntwo {SECRETS[kind]} three\n")
    found = screen({"notes.md": tmp_path / "x"})
    assert [problem.rule for problem in found] == ["secret"], kind
    assert f"Line {2 + SECRETS[kind].count(chr(10)) * kind.startswith('wandb')} " in found[0].message
    assert not shown(SECRETS[kind], found)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.fault("S4")
def test_secrets_are_found_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    planted = ("hub", "hub ci", "github", "aws id", "anthropic", "wandb env", "private key", "url", "named", "slack")
    missed = []
    for number, kind in enumerate(planted):
        local = tmp_path / str(number)
        local.write_bytes(FILES[name](SECRETS[kind]))
        found = [problem for problem in screen_file(name, local) if problem.rule == "secret"]
        if not found:
            missed.append(kind)
        assert not shown(SECRETS[kind], found)
    assert missed == []


@pytest.mark.parametrize("name", ["README.md", "work.ipynb", "rows.jsonl", "escaped.yaml", "windows.txt"])
@pytest.mark.fault("S4")
def test_the_line_is_told(tmp_path: Path, name: str) -> None:
    raw = FILES[name](SECRETS["hub"])
    (tmp_path / "x").write_bytes(raw)
    (problem,) = screen_file(name, tmp_path / "x")
    plain = raw.decode("utf-16" if name == "windows.txt" else "utf-8")
    marker = "\\u005f" if name.startswith("escaped") else "hf_"
    assert problem.message.startswith(f"Line {plain[: plain.index(marker)].count(chr(10)) + 1:,} holds")


@pytest.mark.fault("S4")
def test_examples_in_the_shape_of_a_secret_are_found_and_placeholders_are_not() -> None:
    assert [what for what, _ in secrets.find("AKIAIOSFODNN7EXAMPLE hf_" + "a" * 34)] == [
        "a Hugging Face token",
        "an AWS access key",
    ]
    assert not list(secrets.find(f"hf_{'x' * 34} hf_{'X' * 40} sk-{'x' * 48} https://user:password@host.org"))


def shown(secret: str, found: list[Finding]) -> bool:
    """Whether any 12 letters of the secret's random part can be read in what is told."""
    said = "\n".join(f"{problem!r} {problem.sentence}" for problem in found)
    return secret[-12:].strip('"}') in said or secret in said


@pytest.mark.fault("S4")
def test_names_that_hold_secrets_are_told_without_them(tmp_path: Path) -> None:
    token, other = SECRETS["hub"], SECRETS["github"]
    (tmp_path / "x").write_text("{}")
    header = json.dumps({other: tensor([3])}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    (tmp_path / "places.json").write_text(json.dumps({token: "/home/me/x"}))
    found = screen(
        {
            f"{token}.json": tmp_path / "x",
            f"{token}\\.txt": tmp_path / "x",
            "model.safetensors": tmp_path / "w",
            "places.json": tmp_path / "places.json",
        }
    )
    assert {problem.rule for problem in found} >= {"secret", "name", "safetensors", "local-path"}
    assert not shown(token, found) and not shown(other, found)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 3000), block=st.integers(1, 400), encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]))
@pytest.mark.fault("S4")
def test_no_cut_between_blocks_hides_a_secret(place: int, block: int, encoding: str) -> None:
    said = ("é令 " * 1000)[:place] + "\n" + SECRETS["hub"] + "\n" + "é令 " * 100
    assert text.secrets_in(io.BytesIO(said.encode(encoding)), block=max(block, 16)) == {"a Hugging Face token": 2}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by /proc")
def test_a_file_larger_than_the_memory_that_may_be_used(tmp_path: Path) -> None:
    local = tmp_path / "rows.jsonl"
    with local.open("wb") as file:
        for _ in range(40):
            file.write(b'{"text": "nothing here"} ' * 80_000)
        file.write(SECRETS["hub"].encode())
    script = (
        "import re, sys; from pathlib import Path; from hubkit.checks.screening import screen_file\n"
        "most = lambda: int(re.search('VmHWM:\\\\s*(\\\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = most()\n"
        "print([problem.rule for problem in screen_file('rows.jsonl', Path(sys.argv[1]))])\n"
        "print(most() - before)"
    )
    said = run(script, local)
    assert said[0] == "['secret']" and int(said[1]) < 40_000, said


def run(script: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    return done.stdout.splitlines()


# --- nothing is found where nothing is


def a_tokenizer() -> bytes:
    """A vocabulary of words that look like anything: places, digests, names of keys, beginnings of tokens."""
    dice = random.Random(3)
    words = {
        "/home", "/home/", "/tmp/x", "C:\\", "hf_", "sk-", "AKIA", "password", "api_key", "token", "://", "BEGIN",
        "-----", "PRIVATE", " KEY", "wandb", "Bearer", "xoxb", "AC", "\n\n", '"', "eyJ", "\u0120the", "ghp_", "glpat-",
    }  # fmt: skip
    words |= {"".join(dice.choices(LETTERS + "_-/\\", k=dice.randint(1, 24))) for _ in range(60_000)}
    vocabulary = {word: number for number, word in enumerate(sorted(words))}
    return json.dumps({"model": {"vocab": vocabulary, "merges": [[a, a] for a in list(words)[:20_000]]}}).encode()


CLEAN: dict[str, Callable[[], bytes]] = {
    "tokenizer.json": a_tokenizer,
    "README.md": lambda: (
        "---\nlicense: apache-2.0\nbase_model: me/base\ntags: [dpo]\nmodel-index: []\n---\n"
        f"Trained at commit `{random_word(40, HEX)}` (sha256 {random_word(64, HEX)}); "
        f"wandb run at https://wandb.ai/me/x/runs/{random_word(8)} of commit {random_word(40, HEX)}.\n"
        "Log in with `hf auth login`, or set HF_TOKEN=hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx or `hf_...`.\n"
        "`api_key=\"YOUR_API_KEY\"`, `api_key='EMPTY'`, `https://user:password@example.com`, `sk-...`,\n"
        "```\ncd /home/me && python train.py\n```\n"
        '<div class="sk-top-container sk-toggleable__content-fitted-container-of-estimators">\n'
    ).encode(),
    "work.ipynb": lambda: notebook("os.environ['HF_TOKEN']"),
    "config.json": lambda: json.dumps(
        {"_name_or_path": "me/base", "transformers_version": "5.23.0", "auto_map": {"AutoModel": "modeling_x.Model"}}
    ).encode(),
    "tokenizer_config.json": lambda: json.dumps(
        {
            "pad_token": "<pad>",
            "chat_template": "{% for m in messages %}\n{{ m['content'] }} see /home/user/x {% endfor %}",
            "url": "https://host.org/home/x/y",
            "added_tokens_decoder": {"5": {"content": "C:\\n"}},
        }
    ).encode(),
    "generation_config.json": lambda: b'{"stop": "/", "eos_token_id": [1, 2]}',
    "recipe.yaml": lambda: (
        f"repo: me/model\nbase:\n  repo: them/base\n  revision: {random_word(40, HEX)}\nargs: {{lr: 5e-5}}\n".encode()
    ),
    "results.json": lambda: json.dumps(
        {f"t{n}": {"acc": n / 7, "sha": random_word(64, HEX, n)} for n in range(500)}
    ).encode(),
    "image.png": lambda: random.Random(5).randbytes(3_000_000),
    "blob.txt": lambda: base64.urlsafe_b64encode(random.Random(6).randbytes(1_500_000)),
    ".gitattributes": lambda: b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    ".env.example": lambda: b"HF_TOKEN=\n",
    "app.py": lambda: b'import os\ntoken = os.environ["HF_TOKEN"]\nurl = f"https://{user}:{token}@host/x"\n',
}  # fmt: skip


@pytest.mark.fault("S4")
def test_nothing_is_found_in_a_clean_tree(tmp_path: Path) -> None:
    files = {}
    for number, (name, make) in enumerate(CLEAN.items()):
        files[name] = tmp_path / str(number)
        files[name].write_bytes(make())
    assert screen(files) == []


# --- names


@pytest.mark.parametrize(
    ("paths", "refused"),
    [
        (["README.md", "readme.md"], ["readme.md"]),
        (["Data/x", "data/y"], ["data/y"]),
        (["stra\u00dfe", "STRASSE"], ["stra\u00dfe"]),
        (["\u00e9.txt", "e\u0301.txt"], ["e\u0301.txt"]),
        (["a", "a.", "b"], ["a."]),
        (["a", "a-b", "a/b"], ["a"]),
        (["\u00c9", "\u00e9"], ["\u00e9"]),
    ],
)
@pytest.mark.fault("S1")
def test_names_that_some_disk_takes_for_one(paths: list[str], refused: list[str]) -> None:
    found = screen_names(paths)
    assert [problem.file for problem in found] == refused and {problem.rule for problem in found} == {"name"}


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        *((path, "private-file") for path in (
            ".env", ".env.local", "a/.ENV", ".envrc", ".netrc", "_netrc", ".git-credentials", ".npmrc", ".pypirc",
            "keys/id_ed25519", "server.pem", "x.key", "x.p12", "x.kdbx", ".aws/config", ".ssh/known_hosts", "id_rsa",
            "kaggle.json", "stored_tokens", "client_secret_1.json", "service-account-x.json", "secrets.toml",
            ".bash_history",
        )),
        *((path, "training-state") for path in (
            "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth",
            "trainer_state.json", "training_args.bin", "global_step100/mp_rank_00_model_states.pt", "__0_0.distcp",
            "x/events.out.tfevents.1.host", "checkpoint-100/model.safetensors", "wandb/run/x.json", "runs/a",
            "random_states_0.pkl", "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        )),
        *((path, "pickle") for path in ("pytorch_model.bin", "a/b.pkl", "x.PT", "x.npz", "x.ckpt", "x.joblib")),
    ],
)  # fmt: skip
@pytest.mark.fault("S4")
def test_names_of_what_is_never_published(path: str, rule: str) -> None:
    assert [(problem.file, problem.rule) for problem in screen_names([path])] == [(path, rule)]


@pytest.mark.parametrize(
    "path", ["runs.md", "optimizer.md", "checkpoint.md", "keyboard.py", ".env.example", "environment.yml", "monkey/x"]
)
def test_names_near_them_pass(path: str) -> None:
    assert screen_names([path]) == []


NAME = st.text(
    st.sampled_from("aA./\\:\u0301\u00e9e\u202e\u200b\x00\n \u00df~$1") | st.characters(), min_size=0, max_size=12
)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAME, max_size=6, unique=True))
@pytest.mark.fault("S1")
def test_names_that_pass_are_one_file_each_on_any_disk(paths: list[str]) -> None:
    refused = {problem.file for problem in screen_names(paths)}
    passed = [path for path in paths if secrets.mask(path) not in refused]
    assert len({unicodedata.normalize("NFC", path.casefold()) for path in passed}) == len(passed)
    for path in passed:
        assert path_problem(path) is None
        assert path == unicodedata.normalize("NFC", path) and not path.startswith("/") and "\\" not in path
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not any(other.startswith(f"{path}/") for other in passed)
        path.encode()


# --- places


@pytest.mark.parametrize(
    "value",
    [
        "/home/me/x", "/root/x", "/mnt/data/m", "/Users/me/x", "/workspace/out", "/content/drive/x", "/scratch/me/m",
        "~/models/x", "C:\\Users\\me\\x", "C:/Users/me/x", "D:\\models\\x", "\\\\server\\share\\x", "file:///home/me",
        "--model /home/me/x --fast", "model=/mnt/x/y",
    ],
)  # fmt: skip
def test_places_are_found_wherever_they_stand(tmp_path: Path, value: str) -> None:
    tree = {
        "a.json": json.dumps({"a": [1, {"b": ["x", value]}]}),
        "key.json": json.dumps({value: 1}),
        "a.yaml": yaml.safe_dump({"a": [{"b": ["x", value]}]}, width=1000),
        "flow.yml": f"a: {{b: [x, {json.dumps(value)}]}}",
        "README.md": f"---\nlicense: mit\nx:\n  - y: {json.dumps(value)}\n---\n# A\n",
    }
    for name, said in tree.items():
        (tmp_path / "x").write_text(said)
        assert [problem.rule for problem in screen_file(name, tmp_path / "x")] == ["local-path"], name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_name_or_path", "./out"),
        ("_name_or_path", "../x"),
        ("output_dir", "/data/out"),
        ("tokenizer_file", "/data/t/x"),
    ],
)
def test_places_that_are_known_by_their_key(key: str, value: str) -> None:
    assert local_paths.in_json({"x": [{key: value}]}) == key
    assert local_paths.in_json({"x": [{"other": value}]}) is None
    assert local_paths.in_yaml(f"x:\n  - {key}: {value}\n") == 2


def test_a_place_in_the_metadata_of_weights(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(weights_with("/home/me/runs/1"))
    assert [problem.rule for problem in screen_file("model.safetensors", tmp_path / "w")] == ["local-path"]


@pytest.mark.fault("S8")
def test_a_bomb_of_aliases_or_nests_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(
        "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(1000)) + "c: /home/me/x"
    )
    assert [problem.rule for problem in screen_file("x.yaml", tmp_path / "x")] == ["local-path"]
    (tmp_path / "x").write_text("[" * 100_000)
    assert [problem.rule for problem in screen_file("x.json", tmp_path / "x")] == ["json"]


def test_front_matter_may_hold_words_that_begin_like_numbers(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("---\nsdk_version: 6.31.0\ntitle: trueish\nsize: 1e5x\nn: .5\n---\n")
    assert screen_file("README.md", tmp_path / "x") == []
