"""The only room that talks to a Hub: client, transport, login, retries, errors, uploads, pull requests, Spaces.

Imports ``recipe`` and ``core``. No other room imports ``huggingface_hub``'s network functions.
Start reading at :mod:`hubkit.hub.client`.
"""
