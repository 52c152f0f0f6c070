"""Mergeable one-pass statistics over features; counts are exact, sums are float64."""
