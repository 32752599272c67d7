"""The recipe: the YAML file of one release, as frozen models; and the contract of the stages that it is cut into.

Imports ``core``. Training ``args`` and ``lora`` are TRL's and PEFT's own keys and are checked by ``training``.
Start reading at :mod:`hubkit.recipe.models`, then :mod:`hubkit.recipe.stage`.
"""
