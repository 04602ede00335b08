"""Measurements on the data set itself, from which the transfer strategy is chosen."""
