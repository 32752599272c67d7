"""The built-in recipes, a module each: ``RECIPE`` is the path of its file.

``dpo_repair`` and ``dpo_sft_mixed`` have their files in the package ``tiny``, whose base, data and tasks they share.

``SIZES``, where a package has it, is a JSON file by which `hubkit plan` computes costs without a network: the
``config.json`` of its base, the rows of its datasets (and the mean tokens of a sequence), each with its source.
"""
