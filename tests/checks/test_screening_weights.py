"""Screening of weights: pickles under any name, numbers that are none, files that are not what config.json promises."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.checks.screening import architecture, pickles, screen, screen_file
from hubkit.checks.screening.not_finite import first_not_finite
from hubkit.models.tensors import read_header


def tensor(shape: list[int], dtype: str = "F32", begin: int = 0, size: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}


# --- pickles


class Calls:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def tar_of(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def zip_of(comment: bytes = b"") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))
        archive.comment = comment
    return made.getvalue()


def holding(data: bytes) -> bytes:
    """A sound safetensors file whose one tensor is ``data``."""
    header = json.dumps({"w": tensor([len(data)], "U8", size=len(data))}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "body",
    [
        *(pickle.dumps(Calls(), protocol) for protocol in range(6)),
        *(pickle.dumps({"a": list(range(50))}, protocol) for protocol in range(2, 6)),
        pickle.dumps({"weights": bytes(200_000)}, 2),
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2),
        b"cos\nsystem\n(S'true'\ntRgarbage that is never reached",
        zip_of(),
        zip_of(b"a comment"),
        b"plain text before it\n" + zip_of(),
        holding(b"x" * 100 + zip_of()),
        tar_of("sys_info", "pickle", "storages", "tensors"),
        tar_of("a/data.pkl"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "config.json", "image.png", "x"])
@pytest.mark.fault("S5")
def test_pickles_under_any_name(tmp_path: Path, body: bytes, name: str) -> None:
    (tmp_path / "x").write_bytes(body)
    assert [problem.rule for problem in screen_file(name, tmp_path / "x")] == ["pickle"]


@pytest.mark.fault("S5")
def test_an_array_of_objects_is_a_pickle(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    made = io.BytesIO()
    numpy.save(made, numpy.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "x").write_bytes(made.getvalue())
    assert [problem.rule for problem in screen_file("x.json", tmp_path / "x")] == ["pickle"]


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
@pytest.mark.fault("S5")
def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path, length: int) -> None:
    text = json.dumps({"w": tensor([2])}).encode().ljust(length)
    (tmp_path / "w").write_bytes(struct.pack("<Q", length) + text + bytes(8))
    assert (tmp_path / "w").read_bytes()[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}
    assert screen({"model.safetensors": tmp_path / "w"}) == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"c", b"class A:\n    pass\n", b"const x\nlet y\nR", b"import os\n", b"I am\n.", b"GGUF\x03\x00\x00\x00",
        b"{}.", b"(lp0\n.", b"hello world", b"\x89PNG\r\n\x1a\n", b"PK is short for\nNothing", b"ustar", bytes(2000),
        b"text that says PK\x05\x06 and no more, for long enough to hold a record", tar_of("a.txt", "images/b.png"),
    ],
)  # fmt: skip
@pytest.mark.fault("S5")
def test_what_is_no_pickle_is_taken_for_none(body: bytes) -> None:
    assert pickles.pickle_in(io.BytesIO(body)) is None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
@pytest.mark.fault("S5")
def test_no_text_is_taken_for_a_pickle_and_no_bytes_break_the_look(body: str | bytes) -> None:
    said = pickles.pickle_in(io.BytesIO(body.encode() if isinstance(body, str) else body))
    assert said is None or isinstance(body, bytes)


# --- weights


def stored(values: object, dtype: str) -> bytes:
    import torch

    return torch.as_tensor(values, dtype=torch.float64).to(getattr(torch, dtype)).view(torch.uint8).numpy().tobytes()


CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.fault("S6")
def test_one_number_among_millions_that_is_not_finite(tmp_path: Path, dtype: str, bad: str) -> None:
    if bad != "nan" and dtype not in {"float64", "float32", "float16", "bfloat16", "float8_e5m2"}:
        pytest.skip("this dtype has no infinity")
    largest = {"float8_e4m3fn": 448, "float8_e4m3fnuz": 240, "float16": 65504}.get(dtype, 57344)
    width = len(stored([0.0], dtype))
    fine = (stored([0.0, -1.5, largest, -largest], dtype)) * 500_000
    (tmp_path / "w").write_bytes(file_of(fine, CODES[dtype], width))
    assert first(tmp_path / "w") is None
    for place in (0, 700_001, 1_999_999):
        wrong = fine[: place * width] + stored([float(bad)], dtype) + fine[(place + 1) * width :]
        (tmp_path / "w").write_bytes(file_of(wrong, CODES[dtype], width))
        assert first(tmp_path / "w") == "w"
    (problem,) = screen({"model.safetensors": tmp_path / "w"})
    assert problem.rule == "not-finite" and "'w'" in problem.message
    assert screen({"model.safetensors": tmp_path / "w"}, finite=["model.safetensors"]) == []


def file_of(data: bytes, code: str, width: int) -> bytes:
    """``data`` as a tensor that begins at an odd place, between whole numbers of which every byte is 0xff."""
    header = json.dumps(
        {
            "a": tensor([3], "U8", 0, 3),
            "w": tensor([len(data) // width], code, 3, len(data)),
            "z": tensor([1], "I64", 3 + len(data), 8),
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\xff" * 3 + data + b"\xff" * 8


def first(path: Path) -> str | None:
    with path.open("rb") as file:
        return first_not_finite(file, read_header(path))


@pytest.fixture(scope="session")
def sound_model(make_model, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("sound")
    import torch

    make_model().to(torch.bfloat16).save_pretrained(folder, max_shard_size="50KB")
    return Path(folder)


def tree_of(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def copy_with(folder: Path, into: Path, **changes: object) -> dict[str, Path]:
    """The files of ``folder`` with another config.json."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (into / "config.json").write_text(json.dumps(config))
    return tree_of(folder) | {"config.json": into / "config.json"}


def test_a_sound_model_fits_its_config(sound_model: Path) -> None:
    assert screen(tree_of(sound_model)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 3}, "missing tensors"),
        ({"num_hidden_layers": 1}, "unexpected tensor"),
        ({"intermediate_size": 64}, "of the wrong shape"),
        ({"num_hidden_layers": 10**9}, None),
        ({"model_type": "nobody-knows"}, None),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, ""),
    ],
)
def test_a_config_that_promises_other_tensors(
    sound_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str | None
) -> None:
    monkeypatch.setattr(architecture, "_SECONDS", 15)
    found = [problem.message for problem in screen(copy_with(sound_model, tmp_path, **changes))]
    assert found == [] if not says else len(found) == 1 and says in found[0]
    assert screen(copy_with(sound_model, tmp_path, **changes), fits=False) == []


@pytest.mark.parametrize("said", ["float32", "torch.float16"])
def test_weights_of_another_dtype_than_declared(sound_model: Path, tmp_path: Path, said: str) -> None:
    found = screen(copy_with(sound_model, tmp_path, dtype=said), fits=False)
    assert [problem.rule for problem in found] == ["dtype"]


def test_weights_larger_than_their_dtype_needs(tmp_path: Path) -> None:
    header = json.dumps({"a": tensor([8], "F32", 0, 32), "b": tensor([20], "BF16", 32, 40)}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + bytes(72))
    (tmp_path / "c").write_text('{"dtype": "bfloat16"}')
    (problem,) = screen({"model.safetensors": tmp_path / "w", "config.json": tmp_path / "c"})
    assert problem.rule == "size" and "72" in problem.message


def test_an_index_that_counts_other_bytes(sound_model: Path, tmp_path: Path) -> None:
    name = "model.safetensors.index.json"
    index = json.loads((sound_model / name).read_text())
    index["metadata"]["total_size"] += 1
    (tmp_path / name).write_text(json.dumps(index))
    assert [problem.rule for problem in screen(tree_of(sound_model) | {name: tmp_path / name})] == ["shards"]
