"""The base of all packages: errors, terminal output, files, names, licenses, YAML, sandbox, child processes.

Imports nothing of hubkit; the embedded Hub (``hubkit.server``) imports this package alone.
Start reading at :mod:`hubkit.core.errors`: every error of hubkit and its exit code.
"""
