"""What a decomposition costs, on which images."""
