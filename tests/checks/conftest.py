"""What the tests of `hubkit check` break: a sound model."""

from checked_models import model, published

__all__ = ["model", "published"]
