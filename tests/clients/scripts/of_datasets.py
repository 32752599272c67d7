"""datasets: push and load with configs, splits, shards and revisions; streaming; files of people; pictures."""

import io
import json

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.hub import delete_from_hub
from huggingface_hub import HfApi
from PIL import Image

api, repo = HfApi(), "hubkit/chats"
rows = [{"n": number, "messages": [{"role": "user", "content": f"Ünïcode {number}"}]} for number in range(1200)]
whole = Dataset.from_list(rows)
pushed = whole.push_to_hub(repo, private=True, num_shards=3, commit_message="Three shards")
assert api.dataset_info(repo).sha == pushed.oid and api.dataset_info(repo).private
shards = [name for name in api.list_repo_files(repo, repo_type="dataset") if name.endswith(".parquet")]
assert shards == [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
assert load_dataset(repo, split="train").to_list() == rows
assert load_dataset(repo, split="train[10:20]")["n"] == list(range(10, 20))

# --- splits, configs, revisions
DatasetDict(train=whole.select(range(90)), test=whole.select(range(90, 100))).push_to_hub(repo, "small")
assert datasets.get_dataset_config_names(repo) == ["default", "small"]
assert datasets.get_dataset_split_names(repo, "small") == ["train", "test"]
small = load_dataset(repo, "small")
assert {name: len(part) for name, part in small.items()} == {"train": 90, "test": 10}
whole.select(range(5)).push_to_hub(repo, "small", split="more")
assert set(load_dataset(repo, "small")) == {"train", "test", "more"}
whole.select(range(7)).push_to_hub(repo)
assert len(load_dataset(repo, split="train")) == 7
assert len(load_dataset(repo, split="train", revision=pushed.oid)) == 1200
whole.select(range(3)).push_to_hub(repo, revision="dev")
assert len(load_dataset(repo, split="train", revision="dev")) == 3 and len(load_dataset(repo, split="train")) == 7
whole.select(range(4)).push_to_hub(repo, create_pr=True)
assert len(load_dataset(repo, split="train", revision="refs/pr/1")) == 4
datasets.load_dataset_builder(repo, "small").download_and_prepare()

# --- streams
stream = load_dataset(repo, split="train", streaming=True, revision=pushed.oid)
assert isinstance(stream, IterableDataset) and stream.num_shards == 3
assert [row["n"] for row in stream.skip(500).take(3)] == [500, 501, 502]
assert sum(1 for _ in stream.filter(lambda row: row["n"] % 2)) == 600
shuffled = [row["n"] for row in stream.shuffle(seed=1, buffer_size=50).take(20)]
assert len(set(shuffled)) == 20 and shuffled != sorted(shuffled)

# --- files that people put there
lines = "".join(json.dumps(row) + "\n" for row in rows[:50]).encode()
api.create_repo("hubkit/plain", repo_type="dataset")
card = """---
configs:
- config_name: table
  data_files: data/*.jsonl
- config_name: chats
  data_files:
  - {split: train, path: train.jsonl}
---
"""
table = b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'
for name, content in {"train.jsonl": lines, "data/test.jsonl": table, "README.md": card.encode()}.items():
    api.upload_file(repo_id="hubkit/plain", repo_type="dataset", path_or_fileobj=content, path_in_repo=name)
assert load_dataset("hubkit/plain", "table", split="train").to_list() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
assert load_dataset("hubkit/plain", "chats", split="train").to_list() == rows[:50]
direct = load_dataset("json", data_files="hf://datasets/hubkit/plain/train.jsonl", split="train", streaming=True)
assert next(iter(direct)) == rows[0]
Dataset.from_list(rows[:9]).to_parquet("hf://datasets/hubkit/plain/nine.parquet")
assert Dataset.from_parquet("hf://datasets/hubkit/plain/nine.parquet").num_rows == 9

# --- pictures
pictures = [Image.fromarray(np.full((16, 16, 3), shade, np.uint8)) for shade in (0, 128, 255)]
Dataset.from_dict({"image": pictures}, features=datasets.Features(image=datasets.Image())).push_to_hub(
    "hubkit/pictures"
)
loaded = load_dataset("hubkit/pictures", split="train")
assert [picture.getpixel((3, 3))[0] for picture in loaded["image"]] == [0, 128, 255]
shown = io.BytesIO()
next(iter(load_dataset("hubkit/pictures", split="train", streaming=True)))["image"].save(shown, "PNG")
assert shown.getvalue().startswith(b"\x89PNG")

# --- a config is deleted by a pull request
proposal = delete_from_hub(repo, "small")
api.merge_pull_request(repo, proposal.pr_num, repo_type="dataset")
assert datasets.get_dataset_config_names(repo) == ["default"]
assert not [name for name in api.list_repo_files(repo, repo_type="dataset") if name.startswith("small/")]
