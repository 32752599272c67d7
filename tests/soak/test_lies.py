"""Every answer of everything that publishes replaced by every lie; a lie told for ever; and chaos, by seed.

The cases are those of tests/faults/test_lies_*.py, which run a part of them. What came of it is written to docs/soak.md.
"""
