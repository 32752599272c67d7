"""Xet: the transfer by chunks that clients of the Hub use first. What it stores are ordinary LFS objects.

``hashes`` names chunks, xorbs and files; ``xorbs`` and ``shards`` read the two formats; ``pending`` keeps xorbs until a
shard says which files they are of; ``store`` turns a shard into files and files into what a download needs.
"""
