"""A classifier as backbone and head: finding the head, naming a network, its weights, layers and maps."""
