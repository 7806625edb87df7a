"""Measures a real server over HTTP, decides what to measure next, and fits a ModelProfile to what was seen."""
