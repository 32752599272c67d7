"""Fuzz targets that read files: cards, recipes, manifests, safetensors."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from pathlib import Path
from typing import Any

from fuzz_samples import Run, files


def front_matter(work: Path) -> Run:
    from hubkit.cards.lint import lint_file
    from hubkit.checks.model.files import card_of
    from hubkit.checks.source import FolderSource
    from hubkit.core.errors import HubkitError
    from hubkit.server.repos import metadata

    folder = work / "model"
    folder.mkdir()
    source = FolderSource(folder)

    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        text = content.decode("utf-8", "surrogateescape")
        with contextlib.suppress(metadata.MetadataError):
            metadata.read(text)
        for kind in ("models", "datasets", "spaces"):
            metadata.check(text, kind)
        metadata.body(text)
        if tried % 8 == 0:  # all the rest of a card takes fifty times as long
            with contextlib.suppress(HubkitError):
                lint_file(text, "README.md")
        (folder / "README.md").write_bytes(content)
        card_of(source, [])

    return run


def card_seeds() -> list[bytes]:
    cards = [card[:3000] for card in files("tests/lint_cards/*.md")]
    heads = [
        "license: apache-2.0\nbase_model: me/base\ntags: [a, b]\ndatasets:\n- x/y\nlanguage: [en, 'no']\n",
        "model-index:\n- name: m\n  results:\n  - task: {type: t}\n    dataset: {name: d, type: d}\n"
        "    metrics:\n    - {type: acc, value: 0.5, name: n}\n",
        "a: &x [1, 2]\nb: *x\nc: !!int '3'\nd: |\n  text\n  more\ne: >-\n  folded\n? key\n: value\n",
        "title: S\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\ncolorFrom: blue\npinned: false\n",
        "m: {<<: {a: 1}, b: 2}\ndate: 2024-01-01\nn: 1e3\nh: 0x1f\ns: 190:20:30\nbool: on\n",
    ]
    return cards + [f"---\n{head}---\n# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".encode() for head in heads]


YAML_WORDS = (
    b"---\n", b"- ", b"? ", b": ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!", b"!!int ", b"!!binary ",
    b"!!python/name:os",
    b"!!set ", b"!!omap ", b"!!timestamp ", b"!<x> ", b"|\n", b">-\n", b"'", b'"', b"<<: ", b"%YAML 1.1\n",
    b"...\n", b"#",
    b"\t", b"  ", b"\\u", b"\\x", b"a: ", b"0x", b"0b1", b"1_0", b"1:2:3", b".inf", b"~", b"base_model: ",
    b"license: ", b"- - ",
)  # fmt: skip
MARKDOWN_WORDS = (
    b"|",
    b"|---|",
    b"# ",
    b"```python\n",
    b"```",
    b"<!--",
    b"-->",
    b"<details>",
    b"](",
    b"![",
    b"> ",
    b"* ",
    b"1. ",
)


def recipe(work: Path) -> Run:
    from hubkit.core.errors import HubkitError
    from hubkit.recipe.loading import read_recipe

    path = work / "hubkit.yaml"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read_recipe(path)
        except HubkitError as error:
            assert len(str(error)) < 1_000_000

    return run


def recipe_seeds() -> list[bytes]:
    return files(
        "stages/hubkit_stages/recipes/*/hubkit.yaml",
        "stages/hubkit_stages/recipes/*/*.yaml",
        "tests/data/recipes/*.yaml",
    )


def manifest(work: Path) -> Run:
    from hubkit.core.errors import HubkitError
    from hubkit.publishing.manifest import Provenance, parse_manifest

    def run(content: bytes) -> None:
        try:
            parse_manifest(content)
        except HubkitError as error:
            assert len(str(error)) < 100_000
        Provenance.parse(content)

    return run


def manifest_seeds() -> list[bytes]:
    entry = {"path": "a", "size": 1, "sha256": "0" * 64, "git": "0" * 40}
    small = {
        "schema": 1,
        "files": [entry, {**entry, "path": "b/c"}],
        "hubkit": "0.1.0",
        "branch": "main",
        "release": "x",
    }
    return [*files("tests/data/published-0.1.0/manifest.json"), json.dumps(small).encode()]


JSON_WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b'{"a":', b'[[', b'"path":', b'"size":', b'"sha256":', b'"files":',
    b"null",
    b"1e400", b"-1", b"\\ud800", b"\\u0000", b"1E5", b"0.1", b"Infinity", b'"__metadata__":', b'"schema":',
)  # fmt: skip


def safetensors(work: Path) -> Run:
    from safetensors import SafetensorError, deserialize

    from hubkit.core.errors import HubkitError
    from hubkit.models.tensors import open_header
    from hubkit.server.repos.safetensors import parameters

    count = getattr(parameters, "__wrapped__", parameters)
    path = work / "model.safetensors"

    def run(content: bytes) -> None:
        """``content``: one byte that says how long the header claims to be, one for the data's size, the header."""
        odd, size, header = content[:1] or b"\0", (content[1:2] or b"\0")[0], content[2:]
        length = {0xFF: 2**63, 0xFE: len(header) + 1, 0xFD: 0, 0xFC: 2**31}.get(odd[0], len(header))
        whole = struct.pack("<Q", length) + header + bytes(size * 2)
        sound = True
        try:
            open_header(io.BytesIO(whole), "model.safetensors")
        except HubkitError as error:
            sound = False
            assert len(str(error)) < 100_000
        path.write_bytes(whole)
        count(path)
        if sound:
            try:
                deserialize(whole)
            except SafetensorError as error:
                raise AssertionError(f"accepted, and the library refuses it: {error}") from error

    return run


def safetensors_seeds() -> list[bytes]:
    def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    headers = [
        {},
        {"__metadata__": {"format": "pt"}},
        {"a": tensor(0, 8, [2])},
        {"a": tensor(0, 8, [1, 2]), "b": tensor(8, 12, [2], "BF16"), "__metadata__": {"x": "y"}},
        {"a": tensor(0, 0, [0, 5]), "model.layers.0.self_attn.q_proj.weight": tensor(0, 4, [2, 1], "F16")},
    ]
    sizes = [0, 0, 4, 6, 2]
    return [
        bytes([0, size]) + json.dumps(header, separators=(",", ":")).encode()
        for header, size in zip(headers, sizes, strict=True)
    ]


SAFETENSORS_WORDS = (
    *JSON_WORDS, b'"dtype":"F32"', b'"dtype":"', b'"shape":[', b'"data_offsets":[', b"BF16", b"I64", b"F8_E4M3",
    b"F4", b"BOOL", b"0,0",
)  # fmt: skip
