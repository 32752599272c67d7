"""Run the Hub tests of `datasets` against an embedded Hub.

    python tests/conformance/run_datasets.py [--work FOLDER] [--xet] [pytest arguments]

The tests are those of the source distribution of the installed version, unchanged; fixtures are our own. Those of
buckets, which this Hub does not have, are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from run import HERE, upstream

from hubkit.server import process
from hubkit.server.accounts.accounts import accounts_of
from hubkit.server.accounts.seed import read_seed

_TESTS = ["tests/test_upstream_hub.py", "tests/test_hub.py::test_delete_from_hub"]


def prepare(folder: Path) -> None:
    """Our fixtures and helpers beside the tests."""
    tests = folder / "tests"
    (tests / "fixtures").mkdir(exist_ok=True)
    for name in ("__init__.py", "fixtures/__init__.py"):
        (tests / name).touch()
    shutil.copy(HERE / "of_datasets" / "hub.py", tests / "fixtures" / "hub.py")
    shutil.copy(HERE / "of_datasets" / "utils.py", tests / "utils.py")
    (tests / "conftest.py").write_text("from .fixtures.hub import *  # noqa: F403\n", encoding="utf-8")
    picture = tests / "features" / "data" / "test_image_rgb.jpg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (200, 120, 40)).save(picture)
    (folder / "local.ini").write_text("[pytest]\nmarkers =\n    integration: upstream\n", encoding="utf-8")


def main() -> int:
    """Run; pytest's exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="keep the download here")
    parser.add_argument("--xet", action="store_true", help="let the client use Xet")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="hub-conformance-") as temporary:
        place = Path(temporary)
        work = (options.work or place).resolve()
        work.mkdir(parents=True, exist_ok=True)
        folder = upstream(work, "datasets")
        prepare(folder)
        named = dict(re.findall(r'"(__\w+__)", "(\w+)"', (HERE / "of_datasets" / "hub.py").read_text()))
        seed = {"users": [{"name": name, "token": token} for name, token in named.items()]}
        (place / "seed.json").write_text(json.dumps(seed), encoding="utf-8")
        with accounts_of(place / "hub") as accounts:
            read_seed(place / "seed.json").apply(accounts)
        running = process.start(place / "hub", port=0)
        try:
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            environment |= {"HF_ENDPOINT": running.url, "HF_HOME": str(place / "home")}
            environment |= {} if options.xet else {"HF_HUB_DISABLE_XET": "1"}
            command = [sys.executable, "-m", "pytest", "-c", "local.ini", "--rootdir", ".", "--timeout", "120"]
            return subprocess.run(
                [*command, "-k", "not bucket", "-q", *_TESTS, *rest], cwd=folder, env=environment
            ).returncode
        finally:
            process.stop(place / "hub")


if __name__ == "__main__":
    sys.exit(main())
