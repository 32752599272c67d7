"""The built-in recipes, a package each: ``RECIPE`` is the path of its ``hubkit.yaml``."""
