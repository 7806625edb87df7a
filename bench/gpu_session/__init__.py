"""Measures many configurations on a GPU machine that is lent for minutes: engines start together, loads run in turn."""
