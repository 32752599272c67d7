"""The only package that talks to a Hub over the network: client, transport, auth, retries, errors, uploads, Spaces.

May import ``recipe`` and ``core``. No other package imports ``huggingface_hub``, but for the local helpers that
``tests/hub/test_boundaries.py`` lists; what hubkit uses of its private modules is in :mod:`hubkit.hub.private_api`.
Start reading at :mod:`hubkit.hub.client`; the retry policy is in :mod:`hubkit.hub.retry`.
"""
