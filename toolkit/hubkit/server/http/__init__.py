"""Requests: what every route and page shares between the socket and its handler.

``routing`` declares routes, ``request`` is what a handler gets, ``exceptions`` what it raises, ``access`` finds the
repo of a request and checks the caller's rights, ``middleware`` and ``faults`` wrap the application.
Imports ``hub`` and what lies below it; never ``pages``, ``routes`` or ``app``. Start reading in ``routing``.
"""
