"""The fixtures that huggingface_hub's tests ask for, written anew: their conftest is not in the distribution."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
from huggingface_hub import HfApi, RepoUrl, constants

from . import testing_constants
from .testing_utils import repo_name

RepoFactory = Callable[..., RepoUrl]


@pytest.fixture(scope="session")
def api() -> HfApi:
    return HfApi(endpoint=testing_constants.ENDPOINT_STAGING, token=testing_constants.TOKEN)


@pytest.fixture(autouse=True)
def private_folders(tmp_path_factory: Any, monkeypatch: Any) -> None:
    """Every test has its own cache, token file and assets."""
    home = tmp_path_factory.mktemp("home")
    for name, value in {
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HF_XET_CACHE": home / "xet",
        "HF_ASSETS_CACHE": home / "assets",
        "HF_TOKEN_PATH": home / "token",
        "HF_STORED_TOKENS_PATH": home / "stored_tokens",
    }.items():
        monkeypatch.setattr(constants, name, str(value))


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    """Make repos that are gone after the test."""
    made: list[tuple[RepoUrl, Any]] = []

    def make(repo_type: str = "model", *, repo_id: str | None = None, token: Any = None, **more: Any) -> RepoUrl:
        if repo_type == "space":
            more.setdefault("space_sdk", "gradio")
        url = api.create_repo(repo_id or repo_name(prefix=repo_type), repo_type=repo_type, token=token, **more)
        made.append((url, token))
        return url

    yield make
    for url, token in made:
        api.delete_repo(url.repo_id, repo_type=url.repo_type, token=token, missing_ok=True)


@pytest.fixture(autouse=True)
def no_agent_variables(monkeypatch: Any) -> None:
    """The user agent must not depend on who runs the tests."""
    for name in [key for key in os.environ if key.startswith(("AI_AGENT", "AGENT"))]:
        monkeypatch.delenv(name)


class _Patch:
    """``mocker.patch`` and its forms; everything is undone after the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._stack.enter_context(mock.patch(*args, **more))

    def object(self, *args: Any, **more: Any) -> Any:
        return self._stack.enter_context(mock.patch.object(*args, **more))

    def dict(self, *args: Any, **more: Any) -> Any:
        return self._stack.enter_context(mock.patch.dict(*args, **more))


class _Mocker:
    """What the tests use of pytest-mock's fixture."""

    Mock, MagicMock, ANY, call = mock.Mock, mock.MagicMock, mock.ANY, mock.call

    def __init__(self, stack: ExitStack) -> None:
        self.patch = _Patch(stack)

    def spy(self, owner: Any, name: str) -> Any:
        return self.patch.object(owner, name, side_effect=getattr(owner, name), autospec=True)


@pytest.fixture
def mocker() -> Iterator[_Mocker]:
    with ExitStack() as stack:
        yield _Mocker(stack)
