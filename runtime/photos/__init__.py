"""Photos: finding, decoding and resizing them to the model's pixels."""
