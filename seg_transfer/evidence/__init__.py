"""What is measured on the user's own data, for the transfer rule to decide from."""
