"""`python -m app` is `broker`."""

from app.cli import main

main()
