"""The embedded Hub: a real HTTP server on loopback that unmodified Hub clients talk to.

``process`` starts and stops it, ``app`` puts it together, ``routes`` answers requests, ``store``, ``objects``,
``git`` and ``accounts`` keep what it holds. Nothing is imported here, so that asking for its status stays cheap.
"""
