"""What is handed back changed: edited, retrained, exported, specialised."""
