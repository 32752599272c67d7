"""Which programs read a model: it is loaded, asked and stopped by pinned versions of them, each in its own environment.

Start reading at :mod:`~hubkit.models.readers.matrix`. ``in_transformers.py``, ``in_llama_cpp.py`` and
``in_transformers_js.mjs`` are the scripts that run in those environments; they import nothing of hubkit. ``locks`` has
the pinned packages of each environment.
"""
