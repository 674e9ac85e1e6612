"""`python -m cli` is `tercet`."""

from cli.main import main

main()
