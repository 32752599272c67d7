"""Handlers: one module per family of addresses, each with ``ROUTES``, its lines of the route table in ``app``.

A handler checks rights (``http.access``), calls the parts of the Hub, and returns a response. Route modules do not
import each other. Start reading in ``repos``.
"""
