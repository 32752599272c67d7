"""The embedded Hub: an HTTP server on loopback for unmodified Hub clients. Imports ``hubkit.core`` alone.

From top to bottom: ``app`` (route table, middleware), ``routes`` and ``pages`` (handlers), ``http`` (request, rights,
errors), ``hub`` and ``permissions``, ``spaces``, ``repos``, ``accounts``, ``storage``. ``process`` starts and stops
the server for the command line, which calls it often: so nothing is imported here, and nothing heavy there.
Start reading in ``app``.
"""
