"""The bill of materials of a release, and what was trained on: both made from its manifest and from nothing else."""
