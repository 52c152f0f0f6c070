"""What knows nothing of networks: errors, files, seals, text, tables, progress, drawing."""
