"""DPO, then SFT repair, on tiny's base and data: to compare with :mod:`hubkit_stages.recipes.dpo_sft_mixed`."""

from hubkit_stages.recipes import tiny

RECIPE = tiny.RECIPE.with_name("dpo_repair.yaml")
