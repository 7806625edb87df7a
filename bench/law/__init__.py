"""The law of decisions in time, on a fluid fleet: `python -m bench.law`. Simulated; nothing here runs an engine."""
