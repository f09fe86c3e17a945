"""Verification of exported graphs against the torch modules they came from."""
