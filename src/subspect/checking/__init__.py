"""Checking: what a study and a decomposition show that somebody should look at, as coded findings."""
