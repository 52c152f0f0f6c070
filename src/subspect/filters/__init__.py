"""Filters: which channels of which layer decide a class, by what the decomposed logits lose without them."""
