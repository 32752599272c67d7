"""Storage: the data folder with its locks, and the SQLite database in it.

Imports ``hubkit.core`` alone. Start reading in ``folder``.
"""
