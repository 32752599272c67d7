"""The recipe: the YAML file of one release, as frozen models; and the contract of the stages that it is cut into.

Imports ``core``. Training ``args`` and ``lora`` are TRL's and PEFT's own keys and are checked by ``training``.
Start reading at :mod:`hubkit.recipe.models` (every key with its meaning), then :mod:`hubkit.recipe.loading` (from a
file, all mistakes with their lines) and :mod:`hubkit.recipe.stage` (what a stage is given).
"""
