"""Run huggingface_hub's own tests against an embedded Hub.

    python tests/conformance/run.py [--work FOLDER] [--xet] [pytest arguments, or test ids]

Downloads the source distribution of the installed huggingface_hub with pip, starts a Hub with the accounts
that those tests expect, and runs the ids in ``core.txt`` with a small conftest of our own (theirs is not in the
distribution). The last line says how many passed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from hubkit.server import process
from hubkit.server.accounts.accounts import open_accounts

HERE = Path(__file__).parent
_MARKERS = ["api", "transfer", "inference", "xet", "no_xet", "production", "deprecated", "git_lfs", "vcr"]
_MARKERS += ["usefixtures"]


def upstream(work: Path) -> Path:
    """The unpacked source distribution of the installed version, below ``work``."""
    version = importlib.metadata.version("huggingface_hub")
    folder = work / f"huggingface_hub-{version}"
    if not folder.is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
        ]
        subprocess.run([*pip, "-d", str(work), f"huggingface_hub=={version}"], check=True)
        with tarfile.open(next(work.glob("huggingface_hub-*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
    return folder


def prepare(folder: Path) -> None:
    """Our conftest, plugin and ini beside the tests."""
    tests = folder / "tests"
    (tests / "__init__.py").touch()
    shutil.copy(HERE / "upstream_conftest.py", tests / "conftest.py")
    shutil.copy(HERE / "hubconf.py", folder / "hubconf.py")
    lines = "\n".join(f"    {name}: upstream" for name in _MARKERS)
    (folder / "local.ini").write_text(f"[pytest]\naddopts = -p hubconf\nmarkers =\n{lines}\n", encoding="utf-8")


def seed(data: Path, constants: str) -> None:
    """The users, tokens and organisations that ``testing_constants.py`` names."""
    named = dict(re.findall(r'^(\w+) = "([^"]*)"', constants, re.MULTILINE))
    accounts = open_accounts(data)
    for user, full, token in (
        (named["USER"], named["FULL_NAME"], named["TOKEN"]),
        (named["OTHER_USER"], None, named["OTHER_TOKEN"]),
        (named["ENTERPRISE_USER"], None, named["ENTERPRISE_TOKEN"]),
    ):
        accounts.add_user(user, fullname=full)
        accounts.add_token(user, value=token, label="ci")
    accounts.add_org("valid_org_hub", fullname="Dummy Hub Org", members={named["USER"]: "write"})
    accounts.add_org(named["ENTERPRISE_ORG"], private_repos=True, members={named["ENTERPRISE_USER"]: "admin"})


def main() -> int:
    """Run; pytest's exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="keep the download here")
    parser.add_argument("--xet", action="store_true", help="let the client use Xet")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="hub-conformance-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        folder = upstream(work.resolve())
        prepare(folder)
        data = Path(temporary) / "hub"
        data.mkdir()
        seed(data, (folder / "tests" / "testing_constants.py").read_text(encoding="utf-8"))
        running = process.start(data)
        try:
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            environment |= {
                "HF_ENDPOINT": running.url,
                "HF_HOME": str(Path(temporary) / "home"),
                "PYTHONPATH": str(folder),
            }
            environment |= {} if options.xet else {"HF_HUB_DISABLE_XET": "1"}
            ids = [] if any(item.startswith("tests/") for item in rest) else [f"@{HERE / 'core.txt'}"]
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-c",
                "local.ini",
                "--rootdir",
                ".",
                "--timeout",
                "120",
                *ids,
                *rest,
            ]
            return subprocess.run(command, cwd=folder, env=environment).returncode
        finally:
            process.stop(data)


if __name__ == "__main__":
    sys.exit(main())
