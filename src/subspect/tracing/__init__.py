"""Tracing: which filters of which layer decide a class, by what the decomposed logits lose without them."""
