"""A Space: its files, its test on this machine, its deployment.

Imports ``publishing`` and the rooms below. Start reading at :mod:`hubkit.publishing.spaces.building`.
"""
