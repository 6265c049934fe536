"""`python -m deepinside.cli`."""

from deepinside.cli.main import main

main()
