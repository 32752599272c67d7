"""Spaces: a commit of a Space is built and its app runs on this machine.

``spaces`` gives orders, a ``supervisor`` per Space carries them out, ``policy`` says whether and how confined it may,
``build`` lays out files, ``requirements`` reads what is to be installed, ``data`` keeps secrets, variables and ports,
``logs`` follows a log. Imports ``repos`` and ``storage``.
Start reading in ``spaces``.
"""
