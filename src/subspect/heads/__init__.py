"""What a decomposition is: supports, the decomposed head, its history and its cost."""
