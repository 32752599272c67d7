"""Merge a LoRA adapter into its base, tensor by tensor, in memory that does not grow with the model.

Start reading at :func:`hubkit.models.merging.merge.merge`; :mod:`~hubkit.models.merging.adapter` reads the adapter and
:mod:`~hubkit.models.merging.companions` writes the other files of the model.
"""
