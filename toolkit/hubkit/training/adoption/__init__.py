"""What was trained elsewhere: where it lies, which base it is of, whether it fits, what is reported of it."""
