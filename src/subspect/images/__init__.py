"""Where examples come from: sources, labels, decoding, preprocessing, batches."""
