"""Spaces: a commit of a Space is built and its app runs on this machine.

``spaces`` gives orders, a ``supervisor`` per Space carries them out, ``build`` lays out files and installs
requirements, ``data`` keeps secrets, variables and ports, ``logs`` follows a log. Imports ``repos`` and ``storage``.
Start reading in ``spaces``.
"""
