"""What is wrong with a model, in a folder or in a repo, found without loading it.

Imports ``models``, ``hub``, ``recipe`` and ``core``. Start with ``rules.py``. ``source.py`` reads a folder or a repo,
``model/`` is `hubkit check`, ``screening/`` refuses secrets, pickles and damaged weights before anything is published.
"""
