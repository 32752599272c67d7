"""How the test files are shared out among the workers of pytest-xdist (`--dist loadscope`).

A file is the work of one worker, so that what its tests share is made once; files that share a costly fixture are the
work of one worker together. What takes longest starts first, so that the workers end at about the same time.

xdist's own groups (`--dist loadgroup`) do nothing here: xdist 3.8 writes them to an attribute of a test that pytest 9.2
no longer reads.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

RELEASE = "the release of tests/e2e"
TOGETHER = {
    "tests/e2e/test_in_browser.py": RELEASE,
    "tests/e2e/test_layout_repos.py": RELEASE,
    "tests/e2e/test_release.py": RELEASE,
    "tests/e2e/test_reproducing.py": RELEASE,
    "tests/e2e/test_space.py": RELEASE,
    "tests/e2e/test_watching.py": RELEASE,
}
"""Files whose tests share the costly fixture ``released``."""

SECONDS = {
    RELEASE: 350,
    "tests/space_app/test_app.py": 80,
    "tests/server/test_rights.py": 75,
    "tests/e2e/test_adopting.py": 75,
    "tests/stages/test_loadback.py": 75,
    "tests/recipe/test_recipes.py": 70,
    "tests/cli/test_init_own.py": 60,
    "tests/soak/test_fuzz.py": 60,
    "tests/stages/test_gate.py": 55,
    "tests/cli/test_escapes.py": 55,
    "tests/faults/test_access_faults.py": 50,
    "tests/faults/test_lies_proposals.py": 50,
    "tests/cli/test_merge.py": 50,
    "tests/e2e/test_wrong_inputs.py": 50,
    "tests/faults/test_lies_release.py": 45,
    "tests/faults/test_lies_promotion.py": 40,
    "tests/faults/test_kills.py": 40,
    "tests/cli/test_revisions.py": 40,
    "tests/e2e/test_all_weights.py": 40,
    "tests/checks/test_screening_weights.py": 40,
    "tests/faults/test_publish_faults.py": 35,
    "tests/cli/test_cli.py": 35,
    "tests/hub/test_token_stays.py": 35,
    "tests/training/test_training.py": 35,
    "tests/server/test_damage.py": 30,
    "tests/pipeline/test_recipe_checks.py": 30,
    "tests/server/test_unfinished.py": 30,
    "tests/clients/test_libraries.py": 30,
    "tests/clients/test_hf_command.py": 15,
    "tests/server/test_storage_faults.py": 30,
    "tests/faults/test_yaml_faults.py": 30,
    "tests/cards/test_properties.py": 30,
    "tests/cli/test_startup.py": 30,
    "tests/browser/test_repo_pages.py": 30,
    "tests/faults/test_lies_space.py": 25,
    "tests/faults/test_verify_faults.py": 25,
    "tests/server/test_confined_spaces.py": 25,
    "tests/e2e/test_architectures.py": 25,
    "tests/recipe/test_minimal.py": 25,
    "tests/faults/test_revision_faults.py": 20,
    "tests/faults/test_rivals.py": 20,
    "tests/publishing/test_spaces.py": 30,
    "tests/cli/test_space.py": 20,
}
"""How long it takes, where it is long. The rest starts after these, in the order of the number of tests."""


class Scheduling(LoadScopeScheduling):
    """Give each worker whole files, the longest first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return TOGETHER.get(file, file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope, 0))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(tryfirst=True, optionalhook=True)  # before xdist's own; there is no such hook without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Schedule `--dist loadscope`; other values of the option are xdist's."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None
