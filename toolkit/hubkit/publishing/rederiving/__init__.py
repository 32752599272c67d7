"""A release derived again from what its manifest names: `hubkit verify --rederive`.

Start reading at :func:`hubkit.publishing.rederiving.weights.rederive`.
"""
