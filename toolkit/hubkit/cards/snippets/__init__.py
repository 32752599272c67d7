"""The Python blocks of a card, run as a reader would run them: each by itself, against the revision it is pinned to.

    outcomes = run_cards([Card("README.md", text, pins)], place, limits)

A block runs in a child process with an environment, a home and a folder of its own, and limits of time and memory.
**Limits are not a sandbox**: a block can read what the user can read, and reach the network. Whoever runs strangers'
blocks has to trust them.
"""

from __future__ import annotations

from hubkit.cards.snippets.blocks import Block, extract
from hubkit.cards.snippets.environment import Place, place_for
from hubkit.cards.snippets.pinned_revisions import Pin
from hubkit.cards.snippets.results import BlockResult
from hubkit.cards.snippets.runs import Card, Limits, run_cards

__all__ = ["Block", "BlockResult", "Card", "Limits", "Pin", "Place", "extract", "place_for", "run_cards"]
