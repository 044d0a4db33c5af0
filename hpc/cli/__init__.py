"""The command line: parsing, wiring, printing and exit codes."""
