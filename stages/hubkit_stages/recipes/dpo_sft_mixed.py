"""DPO with an SFT term in its loss, on tiny's base and data: it prevents what the recipe dpo-repair repairs."""

from hubkit_stages.recipes import tiny

RECIPE = tiny.RECIPE.with_name("dpo_sft_mixed.yaml")
