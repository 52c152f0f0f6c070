"""Which features, how many, with which weights."""
