"""Selectors in torch: the co-visibility of view pairs and the block map of each layer."""
