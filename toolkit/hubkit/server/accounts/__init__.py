"""Accounts: users, organizations, tokens with their rights, and logins of browsers.

Imports ``storage`` alone. What an account may do with a repo is decided in ``hubkit.server.permissions``.
Start reading in ``accounts``.
"""
