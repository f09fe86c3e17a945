"""Proof that a built engine is what was asked for, read from its layer information."""
