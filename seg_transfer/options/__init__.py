"""Options of the commands and their Python functions: one frozen type per command."""
