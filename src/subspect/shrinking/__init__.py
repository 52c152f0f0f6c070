"""Shrinking: the channels and blocks that some classes can do without are taken out of the network, physically."""
