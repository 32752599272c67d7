"""Merge an adapter into its base, tensor by tensor, in memory that does not grow with the model.

Start reading at :func:`hubkit.models.merging.merge.merge`. What an adapter is and whether it can be merged:
:mod:`~hubkit.models.merging.adapter`, :mod:`~hubkit.models.merging.support`. What becomes of each tensor:
:mod:`~hubkit.models.merging.changes`, :mod:`~hubkit.models.merging.low_rank`, found by
:mod:`~hubkit.models.merging.by_name` or :mod:`~hubkit.models.merging.fitting`. The other files of the model:
:mod:`~hubkit.models.merging.companions`.
"""
