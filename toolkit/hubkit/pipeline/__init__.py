"""The release: the list of its steps, and what runs them.

Imports all but ``cli`` and ``server``. Start reading at :mod:`hubkit.pipeline.steps`: the list is the program.
"""
