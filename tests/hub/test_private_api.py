"""What hubkit uses of huggingface_hub's private modules is there, in the version that pyproject.toml allows."""

import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hubkit.core.errors import HubkitError
from hubkit.hub import private_api

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module, name", list(private_api.PRIVATE_NAMES))
def test_each_private_name_is_there(module: str, name: str) -> None:
    try:
        private_api.private(module, name)
    except HubkitError as error:
        pytest.fail(
            f"{error.message} It is used because {private_api.PRIVATE_NAMES[module, name]}. Adapt"
            " hubkit/hub/private_api.py before the limit of huggingface_hub in pyproject.toml is raised."
        )


def test_they_take_the_arguments_that_they_are_given() -> None:
    exchange = inspect.signature(private_api.private("huggingface_hub._oidc", "exchange_oidc_token"))
    exchange.bind(subject_token="identity", resource="me/model", endpoint="http://127.0.0.1")
    inspect.signature(private_api.private("huggingface_hub._oidc", "get_oidc_token")).bind(audience="http://127.0.0.1")
    folder = private_api.private("huggingface_hub.file_download", "repo_folder_name")
    assert folder(repo_id="me/model", repo_type="model") == "models--me--model"
    reporter = private_api.private("huggingface_hub.utils._xet_progress_reporting", "XetUploadProgressReporter")
    for method in ("update_progress", "close"):
        assert callable(getattr(reporter, method)), f"XetUploadProgressReporter has no {method}() any more"


def test_a_name_that_is_gone_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("huggingface_hub.utils._http.hf_request_event_hook")
    with pytest.raises(HubkitError, match="which hubkit needs") as caught:
        private_api.request_hook()
    assert "hf_request_event_hook" in caught.value.message and "pip install" in str(caught.value.hint)


def test_the_version_is_limited_to_what_was_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    limit = next(item.specifier for item in requirements if item.name == "huggingface_hub")
    major, minor, *_ = (int(part) for part in version("huggingface_hub").split(".")[:2])
    assert limit.contains(version("huggingface_hub")), "constraints.txt and pyproject.toml disagree"
    assert not limit.contains(f"{major}.{minor + 1}.0"), "the next minor version may have changed private modules"
