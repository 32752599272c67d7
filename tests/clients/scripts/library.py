"""huggingface_hub: snapshots by pattern and revision, commits, CommitScheduler, ModelHubMixin, cards, discussions."""

import json
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub as h
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

api = h.HfApi()

# --- snapshots
for name in ("config.json", "a/model.safetensors", "a/model.bin", "b/notes.md"):
    Path("up", name).parent.mkdir(parents=True, exist_ok=True)
    Path("up", name).write_bytes(name.encode() * 20_000)
api.create_repo("hubkit/many", private=True)
first = api.upload_folder(repo_id="hubkit/many", folder_path="up", commit_message="all")
api.create_tag("hubkit/many", tag="v1")
api.upload_file(repo_id="hubkit/many", path_or_fileobj=b"later", path_in_repo="config.json")
second = api.model_info("hubkit/many").sha


def below(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


chosen = h.snapshot_download("hubkit/many", allow_patterns=["*.json", "a/*"], ignore_patterns="*.bin")
assert below(chosen) == {"config.json", "a/model.safetensors"} and Path(chosen).name == second
tagged = h.snapshot_download("hubkit/many", revision="v1")
assert Path(tagged).name == first.oid
assert Path(tagged, "config.json").read_bytes() == b"config.json" * 20_000
again = h.snapshot_download("hubkit/many", revision=first.oid[:7], local_dir="down")
assert below(tagged) <= below(again)
assert h.snapshot_download("hubkit/many", allow_patterns="a/*.safetensors", local_files_only=True) == chosen
assert h.try_to_load_from_cache("hubkit/many", "a/model.safetensors", revision="v1")
assert h.get_hf_file_metadata(h.hf_hub_url("hubkit/many", "config.json")).commit_hash == second
for expected, words in {
    RepositoryNotFoundError: {"repo_id": "hubkit/nothing", "filename": "a"},
    RevisionNotFoundError: {"repo_id": "hubkit/many", "filename": "config.json", "revision": "v9"},
    EntryNotFoundError: {"repo_id": "hubkit/many", "filename": "missing"},
}.items():
    try:
        h.hf_hub_download(**words)
    except expected:
        continue
    raise AssertionError(expected)

# --- a commit that must be the next one, copies, deletions, a squash
api.create_commit(
    "hubkit/many",
    [
        h.CommitOperationCopy("a/model.bin", "copy.bin"),
        h.CommitOperationDelete("b/"),
        h.CommitOperationAdd("new.txt", b"new"),
    ],
    commit_message="three operations",
    parent_commit=second,
)
try:
    api.create_commit("hubkit/many", [h.CommitOperationAdd("x", b"x")], commit_message="too late", parent_commit=second)
except HfHubHTTPError as error:
    assert error.response.status_code == 412
else:
    raise AssertionError("a commit on a stale parent")
assert set(api.list_repo_files("hubkit/many")) == {
    ".gitattributes", "a/model.bin", "a/model.safetensors", "config.json", "copy.bin", "new.txt",
}  # fmt: skip
api.super_squash_history("hubkit/many", commit_message="one")
assert [commit.title for commit in api.list_repo_commits("hubkit/many")] == ["one"]

# --- in the background
future = api.upload_file(
    repo_id="hubkit/many", path_or_fileobj=b"by a thread", path_in_repo="t.txt", run_as_future=True
)
assert future.result().commit_url.startswith(h.constants.ENDPOINT)
Path("logs").mkdir()
with h.CommitScheduler(
    repo_id="hubkit/logs", repo_type="dataset", folder_path="logs", path_in_repo="day", every=60, private=True
) as scheduler:
    for number in range(3):
        with scheduler.lock, Path("logs/rows.jsonl").open("a") as file:
            file.write(json.dumps({"n": number}) + "\n")
    scheduler.trigger().result()
    with scheduler.lock, Path("logs/rows.jsonl").open("a") as file:
        file.write(json.dumps({"n": 3}) + "\n")
rows = Path(h.hf_hub_download("hubkit/logs", "day/rows.jsonl", repo_type="dataset")).read_text().splitlines()
assert [json.loads(row)["n"] for row in rows] == [0, 1, 2, 3] and api.dataset_info("hubkit/logs").private


# --- a class of one's own
@dataclass
class Settings:
    width: int


class Model(h.ModelHubMixin, library_name="my-library", tags=["small"], license="mit"):
    def __init__(self, settings: Settings, name: str = "none") -> None:
        self.settings, self.name, self.weights = settings, name, b""

    def _save_pretrained(self, save_directory: Path) -> None:
        (save_directory / "weights.bin").write_bytes(self.weights)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None, token: str | None, **more: object) -> "Model":
        words = {name: more[name] for name in ("settings", "name") if name in more}
        model = cls(**words)  # type: ignore[arg-type]
        model.weights = Path(h.hf_hub_download(model_id, "weights.bin", revision=revision, token=token)).read_bytes()
        return model


made = Model(Settings(7), name="seven")
made.weights = bytes(range(256)) * 1000
api.create_repo("hubkit/mine", private=True)
api.create_branch("hubkit/mine", branch="dev")
made.push_to_hub("hubkit/mine", private=True, branch="dev")
back = Model.from_pretrained("hubkit/mine", revision="dev")
assert (back.settings, back.name, back.weights) == (Settings(7), "seven", made.weights)
card = h.ModelCard(Path(h.hf_hub_download("hubkit/mine", "README.md", revision="dev")).read_text())
assert card.data.library_name == "my-library" and "small" in card.data.tags

# --- cards, discussions, likes
card = h.ModelCard("---\nlicense: mit\ntags: [a]\n---\n# Mine\n")
card.validate()
card.push_to_hub("hubkit/mine")
h.metadata_update("hubkit/mine", {"tags": ["a", "b"]}, overwrite=True)
assert h.ModelCard.load("hubkit/mine").data.tags == ["a", "b"]
proposal = api.create_commit(
    "hubkit/mine", [h.CommitOperationAdd("p.txt", b"p")], commit_message="Proposed", create_pr=True
)
assert proposal.pr_num is not None
api.comment_discussion("hubkit/mine", proposal.pr_num, comment="Good")
api.merge_pull_request("hubkit/mine", proposal.pr_num)
details = api.get_discussion_details("hubkit/mine", proposal.pr_num)
assert details.status == "merged" and api.file_exists("hubkit/mine", "p.txt")
assert [model.id for model in api.list_models(author="hubkit", filter="license:mit")] == ["hubkit/mine"]
