"""`hubkit rules`: what the checks can find, and why that matters."""

from __future__ import annotations

import difflib
from importlib import import_module

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.errors import UsageError
from hubkit.core.findings import OLD_RULE_IDS, Rule, registered_rules
from hubkit.core.output import table

_APPLIED_BY = {
    "check": "check",
    "lint": "card lint",
    "screening": "before upload",
    "validate": "generated cards",
    "preflight": "before a release",
    "data": "training data",
}
"""What applies a rule, as people read it; ``--json`` has the keys."""
MODULES = (
    "hubkit.checks.rules",
    "hubkit.cards.lint.rules",
    "hubkit.cards.validate",
    "hubkit.models.chat.rules",
    "hubkit.training.data.rules",
)
"""The modules that register rules; a test compares this list with the source."""


@click.command()
@click.argument("rule_id", metavar="[ID]", required=False)
@output_options
def rules(rule_id: str | None) -> None:
    """List the rules of the checks, or explain one.

    They are applied by `hubkit check`, by `hubkit card lint`, and before a release begins and publishes.

    \b
    Examples:
      hubkit rules
      hubkit rules adapter-base
    """
    found = all_rules()
    if rule_id is None:
        rows = [(item.id, item.level, _applied_by(item), item.finds) for item in found.values()]
        heads = ("rule", "level", "applied by", "finds")
        output_of().result([item.to_json() for item in found.values()], table(heads, rows))
        return
    rule_id = OLD_RULE_IDS.get(rule_id, rule_id)
    if rule_id not in found:
        close = difflib.get_close_matches(rule_id, found, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"There is no rule {rule_id!r}.{meant}", hint="`hubkit rules` lists them.")
    rule = found[rule_id]
    facts = [("level", rule.level), ("finds", rule.finds), ("why", rule.why), ("applied by", _applied_by(rule))]
    facts += [("evidence", rule.evidence)] if rule.evidence else []
    output_of().result(rule.to_json(), rule.id, table(("", ""), facts))


def _applied_by(rule: Rule) -> str:
    return ", ".join(_APPLIED_BY[name] for name in rule.used_by)


def all_rules() -> dict[str, Rule]:
    """Every rule of this installation by id, in the order of the ids."""
    for module in MODULES:
        import_module(module)
    return dict(sorted(registered_rules().items()))
