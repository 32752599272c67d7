"""HfFileSystem and what is built on fsspec: read, write, copy, move, delete, branches, pandas."""

import os
from pathlib import Path

import fsspec
import pandas as pd
from huggingface_hub import HfApi, HfFileSystem, hffs

api, fs, root = HfApi(), HfFileSystem(), "hubkit/files"
api.create_repo("hubkit/files", private=True)
api.create_repo("hubkit/table", repo_type="dataset")
large = os.urandom(3_000_000)

with fs.open(f"{root}/data/weights.bin", "wb", block_size=2**20) as file:
    for start in range(0, len(large), 700_000):
        file.write(large[start : start + 700_000])
with fs.open(f"{root}/data/words.txt", "w", encoding="utf-8") as file:
    file.write("één\ntwo\n")
assert fs.read_text(f"{root}/data/words.txt", encoding="utf-8") == "één\ntwo\n"
assert sorted(fs.ls(f"{root}/data", detail=False)) == [f"{root}/data/weights.bin", f"{root}/data/words.txt"]
assert fs.glob(f"{root}/**/*.bin") == [f"{root}/data/weights.bin"]
assert (
    fs.info(f"{root}/data/weights.bin")["size"]
    == len(large)
    == fs.du(root) - len(fs.cat(f"{root}/data/words.txt") + fs.cat(f"{root}/.gitattributes"))
)
with fs.open(f"{root}/data/weights.bin", "rb", block_size=2**18) as file:  # ranges, and a seek back
    file.seek(2_500_000)
    assert file.read(1000) == large[2_500_000:2_501_000]
    file.seek(-10, 2)
    assert file.read() == large[-10:]
    file.seek(5)
    assert file.read(100) == large[5:105]
with fs.open(f"{root}/data/weights.bin", "rb", block_size=0) as file:  # as a stream
    assert file.read(100) == large[:100] and file.read() == large[100:]
assert fs.cat_file(f"{root}/data/weights.bin", start=10, end=20) == large[10:20]
assert fs.cat_ranges([f"{root}/data/weights.bin"] * 2, [0, 7], [5, 9]) == [large[:5], large[7:9]]

fs.cp_file(f"{root}/data/weights.bin", f"{root}/copy.bin")
fs.mv(f"{root}/data/words.txt", f"{root}/words.txt")
fs.cp(f"{root}/data/weights.bin", f"{root}/backup/weights.bin")
assert not fs.exists(f"{root}/data/words.txt") and fs.isfile(f"{root}/backup/weights.bin")
fs.rm(f"{root}/data", recursive=True)
fs.invalidate_cache()
assert not fs.exists(f"{root}/data") and {path for path in fs.find(root) if not path.endswith(".gitattributes")} == {
    f"{root}/{name}" for name in ("backup/weights.bin", "copy.bin", "words.txt")
}

api.create_branch(root, branch="dev/a")
with fs.open(f"{root}@dev%2Fa/only.txt", "w") as file:
    file.write("on the branch")
assert fs.exists(f"{root}@dev%2Fa/only.txt") and not fs.exists(f"{root}/only.txt")
assert fs.ls(root, revision="dev/a", detail=False, refresh=True).count(f"{root}@dev%2Fa/only.txt") == 1
assert fs.url(f"{root}/copy.bin") == f"{os.environ['HF_ENDPOINT']}/{root}/resolve/main/copy.bin"
Path("up/sub").mkdir(parents=True)
for name in ("up/a.txt", "up/sub/b.bin"):
    Path(name).write_bytes(name.encode())
fs.put("up/", f"{root}/up", recursive=True)
fs.get(f"{root}/up/", "down", recursive=True)
assert Path("down/sub/b.bin").read_bytes() == b"up/sub/b.bin"
assert [names for _, _, names in fs.walk(f"{root}/up")] == [["a.txt"], ["b.bin"]]
for missing in (f"{root}/missing.txt", "hubkit/missing/a.txt", f"{root}@missing/a.txt"):
    try:
        fs.cat(missing)
    except FileNotFoundError:
        continue
    raise AssertionError(missing)
assert not HfFileSystem(token=False).exists(f"{root}/words.txt"), "who has no token sees no private repo"

# --- by pandas, and by any other library that takes an address
frame = pd.DataFrame({"a": range(5000), "b": [f"row {number}" for number in range(5000)]})
for name in ("table.csv", "table.jsonl", "table.parquet"):
    address = f"hf://datasets/hubkit/table/{name}"
    if name.endswith("csv"):
        frame.to_csv(address, index=False)
        again = pd.read_csv(address)
    elif name.endswith("jsonl"):
        frame.to_json(address, orient="records", lines=True)
        again = pd.read_json(address, lines=True)
    else:
        frame.to_parquet(address)
        again = pd.read_parquet(address, columns=["a", "b"])
    assert again.equals(frame), name
with fsspec.open("hf://datasets/hubkit/table/table.csv", "rt") as file:
    assert file.readline() == "a,b\n"
assert "datasets/hubkit/table/table.parquet" in hffs.glob("datasets/hubkit/table/*")
