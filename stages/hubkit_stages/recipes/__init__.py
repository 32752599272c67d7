"""The built-in recipes, a package each: ``RECIPE`` is the path of its ``hubkit.yaml``.

``SIZES``, where a package has it, is a JSON file by which `hubkit plan` computes costs without a network: the
``config.json`` of its base, the rows of its datasets (and the mean tokens of a sequence), each with its source.
"""
