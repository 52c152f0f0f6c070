"""Swapping: what an image shows besides its class is replaced by another image's, and what the network then says."""
