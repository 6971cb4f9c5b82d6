"""Token vectors: encode, store, read in batches."""
