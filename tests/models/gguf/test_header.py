"""Headers of GGUF files that nobody vouches for: what the library's reader finds in good ones, one sentence for others.

That reader takes an object for each element that an array claims, also beyond the end of the file.
"""

from __future__ import annotations

import hashlib
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest

from hubkit.core.errors import RefusedError
from hubkit.models.gguf import header
from hubkit.models.gguf.header import read_gguf_header


def written(path: Path, name: str = "a model") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_token_list(["a", "é", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("flag", True)
    writer.add_float32("real", 0.5)
    writer.add_tensor("one", numpy.arange(12, dtype=numpy.float32).reshape(3, 4))
    writer.add_tensor("two", numpy.ones(40, dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_says_what_the_library_says(tmp_path: Path) -> None:
    found = read_gguf_header(written(tmp_path / "m.gguf"))
    assert (found.text("general.name"), found.kind, found.number("general.file_type")) == ("a model", "q8_0", 7)
    assert found.text("flag") is found.number("flag") is found.number("real") is found.number("absent") is None
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert list(found.keys) == [name for name in reader.fields if not name.startswith("GGUF.")]
    content = (tmp_path / "m.gguf").read_bytes()
    for item in reader.tensors:
        place = found.tensors[item.name]
        assert (place.start, list(place.shape), place.type) == (item.data_offset, item.shape.tolist(), item.tensor_type)
        assert content[place.start : place.stop].rstrip(b"\0") == item.data.tobytes().rstrip(b"\0")
    parts = dict(found.parts())
    assert list(parts) == [*(f"key {name}" for name in found.keys), "tensor one", "tensor two"]
    one = found.tensors["one"]
    assert parts["tensor one"] == (0, (4, 3), hashlib.sha256(content[one.start : one.stop]).hexdigest())
    other = dict(read_gguf_header(written(tmp_path / "other.gguf", "another")).parts())
    assert [name for name, part in parts.items() if other[name] != part] == ["key general.name"]


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def file(*parts: bytes, tensors: int = 0, keys: int = 1, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def array(kind: int, length: int) -> bytes:
    return text(b"x") + struct.pack("<IIQ", 9, kind, length)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "another magic": (b"GGML" + bytes(60), "does not begin with GGUF"),
    "only the magic": (b"GGUF", "ends within its header"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is"),
    "an endless array of bytes": (file(array(0, 1 << 40)), "ends within its header"),
    "an endless array of texts": (file(array(8, (1 << 64) - 1)), "ends within its header"),
    "an array of arrays": (file(array(9, 1), bytes(64)), "unknown type 9"),
    "a text longer than the file": (file(array(8, 2), struct.pack("<Q", 1 << 62), bytes(64)), "ends within its header"),
    "an endless name": (file(struct.pack("<Q", (1 << 64) - 1), bytes(64)), "a name has"),
    "endless keys": (file(keys=1 << 60), "it claims 1,152,921,504,606,846,976 keys"),
    "endless tensors": (file(tensors=1 << 60, keys=0), "tensors, more than 1,000,000"),
    "a key twice": (file(*[text(b"x") + struct.pack("<IB", 0, 1)] * 2, keys=2), "a name appears twice"),
    "a tensor of many dimensions": (file(text(b"t") + struct.pack("<I", 1 << 31), tensors=1, keys=0), "dimensions"),
    "a tensor beyond the end": (
        file(text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 1 << 60), bytes(64), tensors=1, keys=0),
        "a tensor begins beyond its end",
    ),
    "no alignment": (file(text(b"general.alignment") + struct.pack("<II", 4, 0)), "its alignment is 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_claims_beyond_its_bytes_is_one_sentence_at_once(name: str, tmp_path: Path) -> None:
    content, problem = HOSTILE[name]
    (tmp_path / "m.gguf").write_bytes(content)
    began = time.process_time()
    with pytest.raises(RefusedError, match=problem) as error:
        read_gguf_header(tmp_path / "m.gguf")
    assert error.value.message.startswith("m.gguf is not a sound GGUF file: ")
    assert time.process_time() - began < 1


def test_a_header_has_a_limit_however_large_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_HEADER", 1000)
    (tmp_path / "m.gguf").write_bytes(file(array(8, 500), bytes(8 * 500)))
    with pytest.raises(RefusedError, match="its header has more than 1,000 bytes"):
        read_gguf_header(tmp_path / "m.gguf")


def test_any_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = bytearray(written(tmp_path / "m.gguf").read_bytes())
    outcomes: dict[str, Any] = {}
    for place in range(0, len(whole), 3):
        changed = whole.copy()
        changed[place] ^= 0xFF
        (tmp_path / "x.gguf").write_bytes(changed)
        try:
            outcomes["read"] = dict(read_gguf_header(tmp_path / "x.gguf").parts())
        except RefusedError as error:
            outcomes["refused"] = error.message
    assert set(outcomes) == {"read", "refused"}
