"""How a conversation becomes text: chat templates, conversations that try them, and whether all files agree.

chosen = choose("chatml", tokenizer, folder)  # or 'base', or a file: library.py
found = agree(chosen.shipped, Tokens.of(tokenizer), config, generation)
found.end_of_turn, found.findings
"""

from hubkit.models.chat.agreement import (
    Agreement,
    Ends,
    Tokens,
    agree,
    disagreements,
    ends_of,
    eos_ids,
    refuse,
    special_tokens,
)
from hubkit.models.chat.control import control_tokens
from hubkit.models.chat.golden import GOLDEN, golden_findings, golden_names, golden_requests
from hubkit.models.chat.library import (
    FORMATS,
    Chosen,
    Format,
    choices,
    choose,
    names_file,
    setting_problem,
    shipped,
    training,
    unmarked,
)
from hubkit.models.chat.rendering import Message, Rendering, render, render_untrusted
from hubkit.models.chat.trained import SEEN_FILE, differences, load_seen, save_seen, seen, text_count

CHATML = shipped("chatml")
"""ChatML, as it is published. It needs the tokens <|im_start|> and <|im_end|>."""

__all__ = [
    "CHATML",
    "FORMATS",
    "GOLDEN",
    "SEEN_FILE",
    "Agreement",
    "Chosen",
    "Ends",
    "Format",
    "Message",
    "Rendering",
    "Tokens",
    "agree",
    "choices",
    "choose",
    "control_tokens",
    "differences",
    "disagreements",
    "ends_of",
    "eos_ids",
    "golden_findings",
    "golden_names",
    "golden_requests",
    "load_seen",
    "names_file",
    "refuse",
    "render",
    "render_untrusted",
    "save_seen",
    "seen",
    "setting_problem",
    "shipped",
    "special_tokens",
    "text_count",
    "training",
    "unmarked",
]
