"""Run the Hub tests of `transformers` against an embedded Hub.

    git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers
    python tests/conformance/run_transformers.py transformers [--lfs] [pytest arguments]

Its source distribution has no tests, so they are read from a checkout of the installed version's tag. The tests that it
marks ``is_staging_test`` run, unchanged; they need no other conftest than ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from run import HERE

from hubkit.server import process
from hubkit.server.accounts.accounts import accounts_of
from hubkit.server.accounts.seed import read_seed

_MARK = "@is_staging_test"


def seed(data: Path) -> None:
    """The user, the token and the organization that the tests name."""
    from transformers.testing_utils import TOKEN, USER

    file = data.with_suffix(".json")
    orgs = [{"name": "valid_org", "members": {USER: "write"}}]
    file.write_text(json.dumps({"users": [{"name": USER, "token": TOKEN}], "orgs": orgs}), encoding="utf-8")
    with accounts_of(data) as accounts:
        read_seed(file).apply(accounts)


def main() -> int:
    """Run; pytest's exit status, or 2 when the folder has no such tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of transformers at the tag of the installed version")
    parser.add_argument("--lfs", action="store_true", help="the client without Xet")
    options, rest = parser.parse_known_args()
    checkout = options.checkout.resolve()
    files = [path for path in sorted(checkout.glob("tests/**/test_*.py")) if _MARK in path.read_text(encoding="utf-8")]
    if not files:
        sys.stderr.write(f"{checkout}/tests has no file with {_MARK}: give a checkout of transformers' git repo.\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="hub-conformance-") as temporary:
        place = Path(temporary)
        seed(place / "hub")
        running = process.start(place / "hub", port=0)
        try:
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            environment |= {"HF_ENDPOINT": running.url, "HF_HOME": str(place / "home")}
            environment |= {"PYTHONPATH": os.pathsep.join([str(HERE / "of_transformers"), str(checkout)])}
            environment |= {"HF_HUB_DISABLE_XET": "1"} if options.lfs else {}
            (place / "local.ini").write_text("[pytest]\nmarkers =\n    is_staging_test: upstream\n", encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-c", str(place / "local.ini"), "--rootdir", str(checkout)]
            command += ["-p", "staging", "-m", "is_staging_test", "--noconftest", "--timeout", "120", "-q"]
            return subprocess.run([*command, *map(str, files), *rest], cwd=checkout, env=environment).returncode
        finally:
            process.stop(place / "hub")


if __name__ == "__main__":
    sys.exit(main())
