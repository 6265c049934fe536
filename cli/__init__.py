"""The command line. Each command imports the other rooms only when it runs."""
