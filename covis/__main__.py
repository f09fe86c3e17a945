"""`python -m covis` is the `covis` command."""

from covis.cli import main

main()
