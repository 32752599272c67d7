"""One module per family of addresses; each has ``SPECS``, its lines of the route table."""
