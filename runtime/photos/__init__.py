"""Photos on disk to pixels of the model: finding, decoding, resizing."""
