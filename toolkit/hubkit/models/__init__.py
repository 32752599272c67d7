"""Models: chat templates and the end-of-turn token, tensors in files, merging an adapter into its base.

Imports ``hub``, ``recipe`` and ``core``; torch, transformers and peft inside functions only.
Start reading at :mod:`hubkit.models.chat` (templates, stop rate) or :mod:`hubkit.models.merging`.
"""
