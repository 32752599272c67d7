"""What is wrong with a model, a folder or a repo, found without loading it.

Imports ``models``, ``hub``, ``recipe`` and ``core``. ``checkup/`` is `hubkit check`; ``screening/`` refuses secrets,
pickles and damaged weights before anything is published.
"""
