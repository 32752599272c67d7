"""Branches and tags of a repo: list, create, delete, tag, compare, promote, roll back.

    change = plan_promotion(hub, "me/model", "dpo-v0", "main")     # nothing is written yet
    change.apply(hub)                                              # one commit; the Hub copies the files

For any model, dataset or Space that the token may see or write, published by hubkit or not. May import the modules of
``publishing`` and the packages below. Start reading at :mod:`hubkit.publishing.revisions.promotion`.
"""

from hubkit.checks.source import RepoSource
from hubkit.hub.revision_names import commit_of
from hubkit.publishing.revisions.comparing import Comparison, compare_revisions
from hubkit.publishing.revisions.guards import need_unprotected
from hubkit.publishing.revisions.history import Step, history
from hubkit.publishing.revisions.listing import Revision, list_revisions
from hubkit.publishing.revisions.naming import RefChange, create, delete, tag
from hubkit.publishing.revisions.promotion import BranchChange, plan_promotion, plan_rollback
from hubkit.publishing.revisions.pruning import Staged, plan_prune, prune

__all__ = [
    "BranchChange",
    "Comparison",
    "RefChange",
    "RepoSource",
    "Revision",
    "Staged",
    "Step",
    "commit_of",
    "compare_revisions",
    "create",
    "delete",
    "history",
    "list_revisions",
    "need_unprotected",
    "plan_promotion",
    "plan_prune",
    "plan_rollback",
    "prune",
    "tag",
]
