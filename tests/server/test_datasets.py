"""``datasets`` loads from the embedded Hub, unmodified, through HF_ENDPOINT."""

from __future__ import annotations

import json
from collections.abc import Callable

from huggingface_hub import CommitOperationAdd, HfApi

JSONL = "\n".join(json.dumps({"chosen": f"yes {n}", "rejected": f"no {n}"}) for n in range(12)).encode()


def test_load_dataset_reads_jsonl_at_a_revision_and_parquet_in_lfs(api: HfApi, script: Callable[..., str]) -> None:
    api.create_repo("argilla/pairs", repo_type="dataset")
    files = [
        CommitOperationAdd("data/train.jsonl", JSONL),
        CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n"),
    ]
    first = api.create_commit("argilla/pairs", files, repo_type="dataset", commit_message="Add")
    shorter = [CommitOperationAdd("data/train.jsonl", JSONL[: JSONL.index(b"\n")])]
    api.create_commit("argilla/pairs", shorter, repo_type="dataset", commit_message="Shorten")
    api.create_repo("teknium/chats", repo_type="dataset", private=True)
    out = script(
        "import datasets as d, json\n"
        "made = d.Dataset.from_dict({'q': [str(n) for n in range(30)], 'n': list(range(30))})\n"
        "made.push_to_hub('teknium/chats')\n"
        f"old = d.load_dataset('argilla/pairs', split='train', revision='{first.oid}')\n"
        "new = d.load_dataset('argilla/pairs', split='train')\n"
        "parquet = d.load_dataset('teknium/chats', split='train[:10]')\n"
        "stream = d.load_dataset('teknium/chats', split='train', streaming=True)\n"
        "print(json.dumps([len(old), old[3], len(new), len(parquet), parquet[9], len(list(stream))]))\n"
    )
    said = json.loads(out.splitlines()[-1])
    assert said == [12, {"chosen": "yes 3", "rejected": "no 3"}, 1, 10, {"q": "9", "n": 9}, 30]
    entry = next(item for item in api.list_repo_tree("teknium/chats", "data", repo_type="dataset"))
    assert entry.path.endswith(".parquet") and entry.lfs is not None
