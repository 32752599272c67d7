"""Cards: what the world reads. Every number comes from a result file, every claim from a measurement.

evidence = gather(inputs, "main")
card = render_card(build_context(recipe, "main", evidence))
problems = validate(card.text)
"""

from hubkit.cards.context import build_context, cards_of
from hubkit.cards.edits import Conflict, Kept, keep_edits
from hubkit.cards.evidence import Evidence, gather
from hubkit.cards.leaderboards import eval_results, eval_results_problems
from hubkit.cards.measured import FORMATS, CardError, Number, resolve_pointer
from hubkit.cards.others import dataset_card, space_card
from hubkit.cards.pictures import draw
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, Rendered, own_templates, render_card, template_of
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate

__all__ = [
    "ADAPTER_CARD",
    "FORMATS",
    "MODEL_CARD",
    "CardError",
    "Conflict",
    "Evidence",
    "Kept",
    "Number",
    "Rendered",
    "build_context",
    "cards_of",
    "dataset_card",
    "draw",
    "eval_results",
    "eval_results_problems",
    "gather",
    "keep_edits",
    "own_templates",
    "placeholder",
    "render_card",
    "resolve_pointer",
    "space_card",
    "template_of",
    "untraced",
    "validate",
]
