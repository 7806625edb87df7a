"""Shoal beside other planners: the same traffic, the same simulator (not ours), the same knowledge."""
