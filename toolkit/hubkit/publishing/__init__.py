"""From finished artifacts to branches of a Hub repo: bundle, signature, staging, compare-and-swap, pull requests.

Imports ``checks`` and the packages below. ``revisions/`` manages the branches and tags of any repo, ``spaces/`` builds
and deploys a Space. Start reading at :mod:`hubkit.publishing.promotion`.
"""
