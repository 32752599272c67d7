"""A training seen while it runs: what it took, its loss, and whether its numbers are still finite.

Imports what :mod:`hubkit.training` may import; :mod:`hubkit.training.shared` adds its callback to TRL's trainers.
"""
