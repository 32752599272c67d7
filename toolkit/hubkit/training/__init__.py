"""Training: the datasets (``data/``), TRL's and PEFT's arguments, checkpoints, and what the training stages share.

Imports ``models``, ``hub``, ``recipe`` and ``core``; the training libraries inside functions only.
Start reading at :mod:`hubkit.training.shared`; the stages themselves are in ``hubkit_stages``.
"""
