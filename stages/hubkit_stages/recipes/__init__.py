"""The recipes that come with hubkit, a package each: ``RECIPE`` is its ``hubkit.yaml``."""
