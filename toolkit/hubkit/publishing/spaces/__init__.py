"""A Space: its files, its test on this machine, its deployment.

Imports ``publishing`` and the packages below. Start reading at :mod:`hubkit.publishing.spaces.building`.
"""
