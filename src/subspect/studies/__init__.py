"""The folder on disk, and what fills it and reads it."""
