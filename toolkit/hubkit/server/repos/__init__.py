"""Repos: their git history, their large files, their card metadata, their discussions.

``store`` lists, creates, moves and deletes repos, ``git`` reads and writes one, ``lfs`` keeps large files by sha256,
``info`` makes what the API returns of a repo. Imports ``accounts`` and ``storage``. Start reading in ``store``.
"""
