"""Collections larger than one run: parts with shared views, joined into one scene."""
