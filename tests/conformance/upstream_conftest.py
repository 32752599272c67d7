"""The fixtures that huggingface_hub's tests ask for, written anew: their conftest is not in the distribution."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
from huggingface_hub import HfApi, RepoUrl, constants
from huggingface_hub.cli._output import out
from huggingface_hub.inference._providers.hf_inference import _check_supported_task
from huggingface_hub.utils import _auth, _detect_agent

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
        "HUGGINGFACE_HUB_CACHE": home / "hub",
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


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    """The id of a repo that the test is to create."""
    repo_id = f"{testing_constants.USER}/{repo_name()}"
    yield repo_id
    api.delete_repo(repo_id, missing_ok=True)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: Any) -> None:
    """Neither the user agent nor the output of a command depends on who runs the tests, and where."""
    for name in [key for key in os.environ if key.startswith(("AI_AGENT", "AGENT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(_detect_agent, "_registry", _detect_agent._EMPTY_REGISTRY)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_EXPERIMENTAL_WARNING", True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    out.set_mode()
    out.set_no_truncate(False)


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """What the client keeps for the life of a process is forgotten between tests."""
    _auth._OAUTH_REFRESH_CACHE, _auth._OAUTH_REFRESH_WARNED = None, False
    _check_supported_task.cache_clear()
    yield
    _check_supported_task.cache_clear()


@pytest.fixture(autouse=True)
def warned_of_deprecation(request: Any) -> Iterator[None]:
    """A test marked ``deprecated`` must make the client warn of each function that the marker names."""
    with ExitStack() as stack:
        for marker in request.node.iter_markers("deprecated"):
            for name in marker.args:
                stack.enter_context(pytest.warns(FutureWarning, match=f"'{name}'"))
        yield


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
