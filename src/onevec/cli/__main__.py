"""`python -m onevec.cli`."""

from onevec.cli import main

main()
