"""A training in several processes, started by `accelerate launch`.

:mod:`~hubkit.training.launching.launch` is the recipe's ``launch`` with the user's config file of accelerate, and
:mod:`~hubkit.training.launching.ranks` what one of the processes knows of itself and of the others. The pipeline starts
them (``pipeline/launched.py``).
"""
