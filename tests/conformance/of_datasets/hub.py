"""The Hub, the user and the fixtures that the Hub tests of `datasets` name: theirs are not in the distribution."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

CI_HUB_ENDPOINT = os.environ["HF_ENDPOINT"]
CI_HUB_USER, CI_HUB_USER_TOKEN = "__DUMMY_DATASETS_SERVER_USER__", "hf_token_of_the_tests_of_datasets"


def _new_name() -> str:
    return f"{CI_HUB_USER}/test-{time.time_ns()}"


@pytest.fixture
def ci_hub_config() -> None:
    """The endpoint is in the environment."""


@pytest.fixture
def set_ci_hub_access_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CI_HUB_USER_TOKEN)


@pytest.fixture(scope="session")
def hf_api() -> HfApi:
    return HfApi(endpoint=CI_HUB_ENDPOINT)


@pytest.fixture(scope="session")
def hf_token() -> str:
    return CI_HUB_USER_TOKEN


@pytest.fixture
def cleanup_repo(hf_api: HfApi) -> Callable[[str], None]:
    def clean(repo_id: str) -> None:
        hf_api.delete_repo(repo_id, token=CI_HUB_USER_TOKEN, repo_type="dataset")

    return clean


@pytest.fixture
def temporary_repo(cleanup_repo: Callable[[str], None]) -> Callable[..., AbstractContextManager[str]]:
    @contextmanager
    def temporary(repo_id: str | None = None) -> Iterator[str]:
        name = repo_id or _new_name()
        try:
            yield name
        finally:
            with suppress(HfHubHTTPError):
                cleanup_repo(name)

    return temporary


def _text_repo(api: HfApi, **settings: Any) -> str:
    name = _new_name()
    api.create_repo(name, token=CI_HUB_USER_TOKEN, repo_type="dataset", private=settings.pop("private", None))
    api.upload_file(
        token=CI_HUB_USER_TOKEN, path_or_fileobj=b"a line\n", path_in_repo="data/text_data.txt", repo_id=name,
        repo_type="dataset",
    )  # fmt: skip
    if settings:
        api.update_repo_settings(name, repo_type="dataset", token=CI_HUB_USER_TOKEN, **settings)
    return name


@pytest.fixture
def hf_private_dataset_repo_txt_data(hf_api: HfApi) -> str:
    return _text_repo(hf_api, private=True)


@pytest.fixture
def hf_gated_dataset_repo_txt_data(hf_api: HfApi) -> str:
    return _text_repo(hf_api, gated="auto")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    return tmp_path / "lines.txt"


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    return tmp_path / "rows.csv"


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(f"datasets.config.{name}", str(tmp_path / "cache" / name))
