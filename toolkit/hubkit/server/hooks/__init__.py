"""Webhooks: what users want to be told of, what is told, and its delivery to programs on this machine."""
