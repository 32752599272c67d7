"""Everything that hubkit uses of huggingface_hub beyond its public interface, with the reason for each.

Private names can change in any release. So ``pyproject.toml`` pins huggingface_hub to the minor version that the tests
passed with, and ``tests/hub/test_private_api.py`` fails, naming what is gone, when that pin is raised too far. No
other module may import a name of huggingface_hub that begins with an underscore, or set one of its constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hubkit.core.errors import HubkitError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import CommitOperationAdd

PRIVATE_NAMES: Mapping[tuple[str, str], str] = {
    ("huggingface_hub.utils._http", "default_client_factory"): (
        "set_client_factory() is public, but there is no public way to restore the client that it replaced"
    ),
    ("huggingface_hub.utils._http", "hf_request_event_hook"): (
        "a client of our own must send the request ids that the library's own client sends"
    ),
    ("huggingface_hub.constants", "HF_HUB_DISABLE_XET"): (
        "the environment variable is read once, at import; the embedded Hub and Hubs without Xet are known later"
    ),
    ("huggingface_hub.utils._runtime", "is_xet_available"): (
        "an upload by Xet needs a watch of its own, and only the library knows whether it will use Xet"
    ),
    ("huggingface_hub.utils._xet", "abort_xet_session"): "an upload by Xet has no time limit and no other way to stop",
    ("huggingface_hub.utils._xet_progress_reporting", "XetUploadProgressReporter"): (
        "the only place that hears the progress reports of hf_xet, by which a stalled upload is noticed"
    ),
    ("huggingface_hub.utils", "are_progress_bars_disabled"): (
        "with progress bars disabled the library asks hf_xet for no progress reports at all"
    ),
    ("huggingface_hub._commit_api", "CommitOperationAdd"): (
        "its field _upload_mode is set, so that no answer of the Hub decides whether a file is uploaded at all"
    ),
    ("huggingface_hub._oidc", "get_oidc_token"): "trusted publishing has no public function for a job's identity",
    ("huggingface_hub._oidc", "exchange_oidc_token"): (
        "get_token() exchanges an identity by itself, but without a time limit and for one repo in a process only"
    ),
    ("huggingface_hub.file_download", "repo_folder_name"): (
        "the library has no public function for the folder of a repo in its cache"
    ),
}
"""(module, name) of each private name that is used here, and why."""


def private(module: str, name: str) -> Any:
    """The private ``name`` of ``module``; HubkitError when the installed huggingface_hub has none."""
    from importlib.metadata import version

    if (module, name) not in PRIVATE_NAMES:
        raise KeyError(f"{module}.{name} is not listed in hubkit.hub.private_api.PRIVATE_NAMES")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HubkitError(
            f"huggingface_hub {version('huggingface_hub')} has no {module}.{name}, which hubkit needs.",
            hint="Install the version that hubkit was tested with: pip install -U hubkit",
        ) from error


def restore_default_client() -> None:
    """Give huggingface_hub its own HTTP client back."""
    from huggingface_hub import set_client_factory

    set_client_factory(private("huggingface_hub.utils._http", "default_client_factory"))


def request_hook() -> Callable[[httpx2.Request], None]:
    """The hook that huggingface_hub's own client calls before each request."""
    hook: Callable[[httpx2.Request], None] = private("huggingface_hub.utils._http", "hf_request_event_hook")
    return hook


def keep_in_lfs(operation: CommitOperationAdd) -> None:
    """Let ``operation`` upload its file to LFS (or Xet), whatever the Hub would answer about it."""
    names = private("huggingface_hub._commit_api", "CommitOperationAdd").__dataclass_fields__
    if "_upload_mode" not in names:
        raise KeyError("huggingface_hub's CommitOperationAdd has no field _upload_mode any more")
    operation._upload_mode = "lfs"


# --- Xet


def disable_xet() -> None:
    """Send uploads by LFS from now on, in this process."""
    from huggingface_hub import constants

    private("huggingface_hub.constants", "HF_HUB_DISABLE_XET")
    constants.HF_HUB_DISABLE_XET = True


def xet_disabled() -> bool:
    """Whether uploads are sent by LFS because Xet was switched off."""
    return bool(private("huggingface_hub.constants", "HF_HUB_DISABLE_XET"))


def uses_xet() -> bool:
    """Whether huggingface_hub would send an upload by Xet to a Hub that has it."""
    return not xet_disabled() and bool(private("huggingface_hub.utils._runtime", "is_xet_available")())


def abort_xet() -> None:
    """Stop the uploads by Xet of this process."""
    private("huggingface_hub.utils._xet", "abort_xet_session")()


class XetProgress(Protocol):
    """What huggingface_hub calls with the progress reports of hf_xet."""

    def update_progress(self, report: Any, items: Any = None) -> None:
        """A report of hf_xet arrived."""

    def close(self) -> None:
        """The upload ended."""


@contextmanager
def xet_reports_to(progress: XetProgress) -> Iterator[None]:
    """Send the progress reports of hf_xet to ``progress`` within the block, in place of a progress bar."""
    from huggingface_hub import utils
    from huggingface_hub.utils import _xet_progress_reporting as reporting

    before = (
        private("huggingface_hub.utils._xet_progress_reporting", "XetUploadProgressReporter"),
        private("huggingface_hub.utils", "are_progress_bars_disabled"),
    )
    reporting.XetUploadProgressReporter = lambda: progress  # type: ignore[assignment, misc]
    utils.are_progress_bars_disabled = lambda *_: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reporting.XetUploadProgressReporter, utils.are_progress_bars_disabled = before  # type: ignore[attr-defined, misc]


# --- trusted publishing and the cache


def oidc_token(audience: str) -> str:
    """The identity that GitHub Actions issues to this job for ``audience``."""
    return str(private("huggingface_hub._oidc", "get_oidc_token")(audience=audience))


def exchange_oidc_token(identity: str, repo: str, endpoint: str) -> Mapping[str, Any]:
    """The answer of the Hub at ``endpoint`` to an exchange of ``identity`` for a token for ``repo``."""
    exchange = private("huggingface_hub._oidc", "exchange_oidc_token")
    answer: Mapping[str, Any] = exchange(subject_token=identity, resource=repo, endpoint=endpoint)
    return answer


def cached_repo(repo: str) -> Path:
    """The folder in which huggingface_hub's cache keeps the model ``repo``; it need not exist."""
    from huggingface_hub import constants

    name = private("huggingface_hub.file_download", "repo_folder_name")
    return Path(constants.HF_HUB_CACHE) / str(name(repo_id=repo, repo_type="model"))
