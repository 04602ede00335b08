"""What each command and its Python function can be told: one frozen type per command, written once."""
