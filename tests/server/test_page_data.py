"""What pages show of weights, commits, comments, and how a repo is used: the values behind them, and hostile input."""

from __future__ import annotations

import ast
import json
import re
import shlex
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import architectures
import pytest
import raw_commits
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import httpx

from hubkit.server.pages import rendering, usage
from hubkit.server.pages.markup import Place, card_html
from hubkit.server.pages.visible import visible, visible_code
from hubkit.server.process import Running
from hubkit.server.repos import weights
from hubkit.server.repos.safetensors import header_of, name_order, parameters, read_index


@pytest.fixture
def web(hub: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, headers={"Accept": "text/html"}, timeout=30, trust_env=False) as client:
        yield client


def page(web: httpx.Client, path: str) -> str:
    response = web.get(path)
    assert response.status_code == 200, (path, response.status_code, response.text[:200])
    return response.text.partition("<main")[2]


def safetensors(header: Any, data: bytes = b"") -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data


def tensors(**given: tuple[str, list[int], bytes]) -> bytes:
    """A sound file of tensors: type, shape, bytes."""
    header, data = {}, b""
    for name, (dtype, shape, content) in given.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return safetensors(header, data)


# safetensors ------------------------------------------------------------------------------------------------

NOT_SAFETENSORS = {
    "empty": b"", "short": b"\1", "no header": struct.pack("<Q", 2**63), "longer than the file": safetensors({})[:9],
    "no json": safetensors(b"{]"), "a list": safetensors([1]), "nested": safetensors(b"[" * 100_000),
    "a nest of objects": safetensors(b'{"a":' * 50_000), "a number of many digits": safetensors(b'{"a":' + b"9" * 5000),
    "no utf-8": safetensors(b'{"\xff": 1}'), "too many values": safetensors(b"[" + b"1," * 2_000_001 + b"1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_SAFETENSORS)
def test_what_is_no_safetensors_file_has_no_tensors_and_a_reason(name: str) -> None:
    begun = time.process_time()
    header = header_of(NOT_SAFETENSORS[name])
    assert header.tensors == () and header.problem and time.process_time() - begun < 5


def test_tensors_that_contradict_their_file_are_told_apart(tmp_path: Path) -> None:
    lines: dict[str, Any] = {
        "sound": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "outside": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]},
        "reversed": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        "other size": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 8]},
        "four bits": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]},
        "no place": {"dtype": "F32", "shape": [2]},
        "scalar": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    }
    odd = {
        "a": 1, "b": {"dtype": "F32"}, "c": {"dtype": "<b>", "shape": []}, "d": {"dtype": "F32", "shape": [2**63]},
        "e": {"dtype": "F32", "shape": [True]}, "f": {"dtype": "F32", "shape": [-1]},
        "g": {"dtype": "F32", "shape": [1] * 99}, "h": {"dtype": "F32", "shape": [2**40, 2**40]},
    }  # fmt: skip
    content = safetensors({"__metadata__": {"format": "pt", "n": 1, "x": [1]}, **lines, **odd}, b"\0" * 8)
    header = header_of(content)
    problems = {tensor.name: tensor.problem for tensor in header.tensors}
    assert [name for name, problem in problems.items() if not problem] == ["four bits", "scalar", "sound"]
    assert set(problems) == set(lines) and header.left_out == len(odd)
    assert header.metadata == (("format", "pt"), ("n", "1"))
    path = tmp_path / "w"
    path.write_bytes(content)
    assert parameters(path) == header.parameters == {"F32": 8, "BF16": 2, "F4": 16, "I64": 1}


def test_names_are_ordered_by_their_numbers() -> None:
    names = ["l.10.w", "l.2.w", "l.02.w", "a", "l." + "9" * 6000, "10", "9", ""]
    assert sorted(names, key=name_order)[:6] == ["", "9", "10", "a", "l.2.w", "l.02.w"]
    assert read_index(b'{"weight_map": {"l.10": "b", "l.9": "a", "x": 1}}').files == (("l.9", "a"), ("l.10", "b"))
    assert "weight_map" in read_index(b"[]").problem and read_index(b"{").problem


def test_headers_in_one_answer_are_bounded_together(api: HfApi, web: httpx.Client) -> None:
    """One large file under several names, which costs its sender one upload."""
    api.create_repo("me/m")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' + b" " * (23 * 2**20) + b"}"
    content = safetensors(header, b"\0" * 4)
    files = {f"{number}.safetensors": content for number in range(3)}
    for number in (2, 3):
        index = {"metadata": {"total_size": 4}, "weight_map": dict(zip("abc"[:number], files, strict=False))}
        files[f"{number}.json"] = json.dumps(index).encode()
    api.create_commit("me/m", [CommitOperationAdd(name, data) for name, data in files.items()], commit_message="m")
    address = "/api/models/me/m/safetensors-metadata"
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    shown = {f"{number}.safetensors": {"__metadata__": {}, "a": tensor} for number in range(2)}
    assert web.get(f"{address}/2.json").json() == {"index": {"metadata": {"total_size": 4}}, "headers": shown}
    refused = web.get(f"{address}/3.json")
    assert refused.status_code == 400 and "together" in refused.text


def test_a_page_shows_tensors_in_pages_filtered_and_across_files(api: HfApi, web: httpx.Client) -> None:
    api.create_repo("me/m")
    row = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    many = {f"model.layers.{number}.w": row for number in range(1500)}
    script = "<script>alert(1)</script>\u202e"
    hostile = {"__metadata__": {script: script}, script: row, "x" * 500: {**row, "data_offsets": [0, 99]}}
    places = {"a.w": "model-1.safetensors", "b.w": "model-2.safetensors", "c.w": "../../etc/passwd", "d.w": "absent"}
    index = {"metadata": {"total_size": 24}, "weight_map": places}
    shard = tensors(**{"a.w": ("F16", [1, 2], b"\0" * 4)})
    other = tensors(**{"b.w": ("F32", [5], b"\0" * 20)})
    files = {
        "many.safetensors": safetensors(many, b"\0" * 12), "hostile.safetensors": safetensors(hostile, b"\0" * 12),
        "broken.safetensors": b"\xff" * 50, "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": shard, "model-2.safetensors": other,
    }  # fmt: skip
    api.create_commit("me/m", [CommitOperationAdd(name, data) for name, data in files.items()], commit_message="m")
    blob = "/me/m/blob/main"
    first, last = page(web, f"{blob}/many.safetensors"), page(web, f"{blob}/many.safetensors?p=14")
    assert "<dd>1,500</dd>" in first.replace("\n", "") and first.count("<tr>") == 101 and "2 × 3" in first
    assert first.index("layers.2.w") < first.index("layers.10.w") and "layers.100.w" not in first
    assert "1,401–1,500 of 1,500" in last and "layers.1499.w" in last and 'href="?p=13"' in last
    found = page(web, f"{blob}/many.safetensors?tensor=LAYERS.149&p=0")
    assert "11 of 1,500" in found and "layers.1490.w" in found and 'value="LAYERS.149"' in found
    assert "No tensor has such a name" in page(web, f"{blob}/many.safetensors?tensor=%3Cscript%3E")
    shown = page(web, f"{blob}/hostile.safetensors")
    assert "<script>alert" not in shown and "\u202e" not in shown and "\\u202e" in shown
    assert "lies outside the file" in shown and "…" in shown
    assert "is not a safetensors file" in page(web, f"{blob}/broken.safetensors")
    together = page(web, f"{blob}/model.safetensors.index.json")
    assert f"{blob}/model-2.safetensors" in together and "total_size" in together and "in 4 files" in together
    assert together.count("not in this file") == 2 and 'title="7"' in together
    assert web.get(f"{blob}/many.safetensors?p=x").status_code == 400
    assert f"{blob}/model.safetensors.index.json" in page(web, "/me/m")


# Commits ----------------------------------------------------------------------------------------------------


def test_weights_are_compared_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four, eight = b"\0" * 4, b"\0" * 8
    old, new = tmp_path / "old", tmp_path / "new"
    same: dict[str, Any] = {f"z.{number}": ("F32", [2], eight) for number in range(400)}
    shared = {"kept": ("F32", [2], eight), **same}
    gone: dict[str, Any] = {"gone": ("F32", [1], four), "values": ("F32", [1], four), "shape": ("F32", [1], four)}
    come: dict[str, Any] = {
        "come": ("F32", [1], four),
        "values": ("F32", [1], b"\0\0\0\1"),
        "shape": ("F32", [2], eight),
    }
    old.write_bytes(tensors(**gone, type=("F32", [1], four), **shared))
    new.write_bytes(tensors(**shared, **come, type=("I32", [1], four)))  # at another place in the file
    found = weights.compare(old, new)
    assert {row.name: row.status for row in found.rows} == {
        "come": "added", "gone": "removed", "values": "values", "shape": "shape", "type": "type",
    }  # fmt: skip
    assert found.counts["same"] == 401 and found.more == 0
    alone = weights.compare(None, new)
    assert alone.counts == {"added": 405} and len(alone.rows) == 300 and alone.more == 105
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff" * 99)
    assert weights.compare(new, broken).problem
    monkeypatch.setattr(weights, "_MOST", 8)
    again = tmp_path / "again"
    again.write_bytes(new.read_bytes())
    counts = weights.compare(again, new).counts
    assert counts["same"] == 1 and counts["unknown"] == 404, "no more is read than may be"


def test_a_commit_shows_what_it_changed(hub: Running, api: HfApi, web: httpx.Client) -> None:
    api.create_repo("me/m")

    def commit(message: str, removed: tuple[str, ...] = (), **files: bytes) -> str:
        operations: list[Any] = [CommitOperationAdd(name.replace("__", "."), data) for name, data in files.items()]
        operations += [CommitOperationDelete(name) for name in removed]
        api.create_commit("me/m", operations, commit_message=message)
        return page(web, "/me/m/commit/main")

    card = "---\nlicense: mit\ntags: [a]\n---\n# Card\n"
    script = "<script>alert(1)</script>"
    long = "\n".join(f"line {number}" for number in range(3000)).encode()
    first = commit(
        "one", README__md=card.encode(), config__json=b'{"a": {"b": 1}, "c": 2}', gone__txt=b"old\nline\n",
        w__safetensors=tensors(x=("F32", [1], b"\0" * 4)), data__bin=b"\0\1", long__txt=long, big__txt=b"x\n" * 150_000,
    )  # fmt: skip
    assert "7 files changed" in first and "line 900" in first and "line 1100" not in first
    assert "rest of the change is too long" in first and "too large to compare" in first and "not text" in first
    changed = commit(
        f"{script}\u202e\n\n{script}", ("gone.txt",), README__md=card.replace("mit", "cc0-1.0").encode() + b"more\n",
        config__json=json.dumps({"a": {"b": script}, "c": 2}).encode(),
        w__safetensors=tensors(x=("F32", [2], b"\0" * 8), y=("F32", [1], b"\0" * 4)),
        script__md=f"{script}\u202e".encode(),
    )  # fmt: skip
    assert "<script>alert" not in changed and "\u202e" not in changed and "&lt;script&gt;alert(1)" in changed
    for key, before, after in (("license", "mit", "cc0-1.0"), ("a.b", "1", "&lt;script&gt;")):
        assert re.search(rf"<bdi>{key}</bdi>.*?{before}.*?{after}", changed, re.DOTALL), key
    assert ">−</td><td><code>old</code>" in changed and ">+</td><td><code>more</code>" in changed
    assert (
        "F32 1" in changed and "F32 2" in changed and re.search(r"<b>1</b> added.*<b>1</b> with another shape", changed)
    )
    initial = api.list_repo_commits("me/m")[-1].commit_id
    assert "filter=lfs" in page(web, f"/me/m/commit/{initial}")
    data = {"config.json": b'{"a": ' + b"[" * 90_000, "README.md": b"---\n[\n---\n"}
    raw_commits.commit(hub, "me/m", data, "broken")  # the client refuses to send such a card
    broken = page(web, "/me/m/commit/main")
    assert "2 files changed" in broken and "<th" in broken


def test_a_pull_request_shows_what_it_would_change(api: HfApi, web: httpx.Client) -> None:
    api.create_repo("me/m")
    api.create_commit("me/m", [CommitOperationAdd("a.txt", b"one\n")], commit_message="a")
    api.create_pull_request("me/m", title="change")
    api.create_commit("me/m", [CommitOperationAdd("a.txt", b"two\n")], commit_message="b", revision="refs/pr/1")
    api.create_commit("me/m", [CommitOperationAdd("elsewhere.txt", b"x\n")], commit_message="c")
    shown = page(web, "/me/m/discussions/1")
    assert "<code>two</code>" in shown and "<code>one</code>" in shown and "elsewhere.txt" not in shown


def test_private_weights_are_not_read_through_the_pointer_of_another_repo(
    api: HfApi, web: httpx.Client, raw: httpx.Client
) -> None:
    api.create_repo("me/secret", private=True)
    content = tensors(hidden_name=("F32", [1], b"\0" * 4))
    api.create_commit("me/secret", [CommitOperationAdd("w.safetensors", content)], commit_message="m")
    pointer = raw.get("/me/secret/raw/main/w.safetensors").content
    api.create_repo("me/open")
    lines = [
        {"key": "header", "value": {"summary": "s"}},
        {"key": "file", "value": {"path": "w.safetensors", "content": pointer.decode()}},
    ]
    raw.post("/api/models/me/open/commit/main", content="\n".join(map(json.dumps, lines)))
    for path in ("/me/open/blob/main/w.safetensors", "/me/open/commit/main"):
        response = web.get(path)
        assert "hidden_name" not in response.text, path


# Comments ---------------------------------------------------------------------------------------------------

PLACE = Place("/me/m", "main", "comment-")
ACCOUNTS = {"me": "Me", "a-b": "a-b"}
COMMENTS = {
    "hi @me!": '<a href="/Me"',
    "(@A-b.)": '>@A-b</a>.)',
    "@nobody": "@nobody",
    "x@me.org": "x@me.org",
    "`@me`": "<code>@me</code>",
    "[@me](x)": ">@me</a>",
    "![t](https://evil.example/t.png)": 'href="https://evil.example/t.png"',
    "[![t](https://evil.example/t.png)](https://a.example)": 'href="https://a.example"',
    "![l](a.png)": 'src="/me/m/resolve/main/a.png"',
    "<img src='https://evil.example/t.png'>": '<img alt=""',
    "![x](javascript:alert(1))": "![x](javascript:",
    "# T": 'id="comment-t"',
}  # fmt: skip


@pytest.mark.parametrize("text", COMMENTS)
def test_a_comment_links_people_and_loads_nothing_from_elsewhere(text: str) -> None:
    remote = Place(PLACE.web, PLACE.revision, PLACE.prefix, remote_pictures=False)
    html = card_html(text, remote, ACCOUNTS)
    assert COMMENTS[text] in html, html
    assert not re.search(r'(src|srcset)="(?!/me/m/resolve/)', html) and '="javascript:' not in html
    assert html.count('href="/') == (1 if "/Me" in html or "/a-b" in html or "blob" in html else 0)


def test_a_slow_comment_leaves_the_others() -> None:
    begun = time.monotonic()
    hostile = ["[" * 60_000, "> " * 30_000, "a" * 70_000]
    cards = rendering.comments(["*one*", *hostile, "*two* @me"], PLACE, ACCOUNTS)
    assert time.monotonic() - begun < 20 and len(cards) == 5
    assert "<em>one</em>" in cards[0].html and '<em>two</em> <a href="/Me"' in cards[4].html
    assert all(card.html or card.plain == text for card, text in zip(cards[1:4], hostile, strict=True))
    assert cards[1].plain and cards[3].plain


def test_a_thread_is_markdown_without_scripts_or_trackers(api: HfApi, web: httpx.Client) -> None:
    api.create_repo("me/m")
    text = "**bold** @ME <script>alert(1)</script> ![t](https://evil.example/t.png)\n\n```python\ndef f(): pass\n```\n"
    api.create_discussion("me/m", title="t", description=text)
    for number in range(31):
        api.comment_discussion("me/m", 1, f"number {number}.")
    api.rename_discussion("me/m", 1, "<b>new</b>")
    response = web.get("/me/m/discussions/1")
    assert "https:" not in response.headers["content-security-policy"]
    first, second = page(web, "/me/m/discussions/1"), page(web, "/me/m/discussions/1?p=1")
    assert "<strong>bold</strong>" in first and '<span class="hl-k">def</span>' in first and "alert(1)" not in first
    assert 'href="/me"' in first and "<img" not in first and 'href="?p=1"' in first
    assert "number 28." in first and "number 29." not in first and "number 30." in second
    assert "changed the title from" in second and "&lt;b&gt;new" in second


def test_hidden_and_reordering_characters_are_written_out() -> None:
    assert visible("a\u202eb\x00\n\u200b") == "a\\u202eb\\u0000\\n\\u200b" and visible("abcdef", 4) == "abc…"
    assert visible_code("\tx\u2066") == "\tx\\u2066" and visible("ü漢🙂") == "ü漢🙂"


# Use this model ---------------------------------------------------------------------------------------------


def facts(kind: str = "model", **given: Any) -> usage.Facts:
    info = {"library_name": "transformers", "config": {"architectures": ["LlamaForCausalLM"]}, **given.pop("info", {})}
    files = given.pop("files", ["config.json", "model.safetensors"])
    return usage.Facts("me/m", kind, given.pop("revision", "main"), "http://127.0.0.1:8750", files, info, **given)


ADAPTER = {"base_model_name_or_path": "org/base", "r": 48}
WAYS = {
    "chat": (facts(chat=True), ["Transformers", "Download", "vLLM"]),
    "plain": (facts(), ["Transformers", "Download", "vLLM"]),
    "encoder": (facts(info={"config": {"architectures": ["BertModel"]}}), ["Transformers", "Download"]),
    "task": (
        facts(info={"config": {"architectures": ["BertX"]}, "pipeline_tag": "fill-mask"}), ["Transformers", "Download"],
    ),
    "adapter": (
        facts(files=["adapter_config.json"], adapter=ADAPTER, info={"library_name": "peft", "config": {}}),
        ["PEFT (LoRA adapter)", "Download", "vLLM"],
    ),
    "both": (
        facts(files=["config.json", "adapter/adapter_config.json"], adapter=ADAPTER, base_here=True),
        ["Transformers", "PEFT (LoRA adapter)", "Download", "vLLM"],
    ),
    "gguf": (facts(files=["m-Q8_0.gguf", "m-q4_k_m.gguf"], info={"config": {}}), ["llama.cpp", "Ollama", "Download"]),
    "split": (facts(files=["m-00001-of-00002.gguf"], info={"config": {}}), ["llama.cpp", "Download"]),
    "nothing": (facts(files=[], info={"config": None, "library_name": None}), ["Download"]),
    "dataset": (facts("dataset", info={"cardData": {"configs": [{"config_name": "a"}, {"config_name": "b"}, 1]}}),
                ["Datasets", "Download"]),
    "space": (facts("space", info={"sdk": "gradio", "cardData": {"app_file": "ap p.py"}}, files=["requirements.txt"]),
              ["Run it on this machine", "Download"]),
    "running": (facts("space", info={"sdk": "gradio"}, app="http://localhost:1"),
                ["Gradio client", "Run it on this machine", "Download"]),
    "static": (facts("space", info={"sdk": "static"}), ["Download"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_each_kind_of_repo_has_its_ways_to_use_it(name: str) -> None:
    given, titles = WAYS[name]
    ways = usage.snippets(given)
    assert [way.title for way in ways] == [*titles, "git"]
    for way in ways:
        assert "8750" in way.code or way.title == "Gradio client"
        if way.language == "python":
            ast.parse(way.code)
        else:
            subprocess.run(["bash", "-n"], input=way.code, text=True, check=True)
    text = "\n".join(way.code for way in ways)
    if name == "adapter":
        assert "endpoint=" in text and "os.environ" not in text and "--max-lora-rank 64" in text
    if name == "gguf":
        assert "m-q4_k_m.gguf" in text and "Q8_0" not in text


def test_a_revision_with_odd_characters_stays_one_argument() -> None:
    odd = "a'b\"$(touch x);`x`é\U0001f642"
    for kind, files in (("model", ["config.json", "a.gguf", "$(x).gguf"]), ("dataset", []), ("space", [])):
        for way in usage.snippets(facts(kind, revision=odd, files=files, info={"sdk": "gradio"})):
            assert "$(x)" not in way.code
            if way.language == "python":
                strings = [node.value for node in ast.walk(ast.parse(way.code)) if isinstance(node, ast.Constant)]
                assert odd in strings
            else:
                assert odd in shlex.split(way.code)


def test_hostile_settings_give_no_code() -> None:
    for base in ("x'; import os #/y", "a/b; rm -rf", 1, None, "../x"):
        given = facts(files=["adapter_config.json"], adapter={"base_model_name_or_path": base, "r": [1]})
        assert [way.title for way in usage.snippets(given)] == ["Download", "vLLM", "git"]
    assert usage.settings(b"[1]") == usage.settings(b"{") == {}


def test_the_code_of_a_model_runs_as_it_is(
    api: HfApi, web: httpx.Client, script: Callable[..., str], tmp_path: Path
) -> None:
    """The code of the page in a process that knows nothing of this Hub: Transformers, and the adapter with its base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = architectures.make("llama-3", tmp_path / "base")
    api.create_repo("me/base")
    api.upload_folder(repo_id="me/base", folder_path=base)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = "me/base"
    model.save_pretrained(tmp_path / "both" / "adapter")
    api.create_repo("me/both")
    api.upload_folder(repo_id="me/both", folder_path=base, revision="main")
    api.upload_folder(repo_id="me/both", folder_path=tmp_path / "both", commit_message="an adapter")
    api.create_tag("me/both", tag="v1")
    html = page(web, "/me/both?revision=v1")
    codes = re.findall(r'<pre class="plain copy"[^>]*aria-label="([^"]*)">(.*?)</pre>', html, re.DOTALL)
    found = {title: unescape(code) for title, code in codes}
    assert list(found) == ["Transformers", "PEFT (LoRA adapter)", "Download", "vLLM", "git"]
    code = found["Transformers"] + found["PEFT (LoRA adapter)"] + "print('ran', type(model).__name__)\n"
    assert "ran PeftModel" in script(code, HF_ENDPOINT="http://127.0.0.1:9")
