"""`python -m safer_steer` is the command line."""

from safer_steer.cli import main

main()
