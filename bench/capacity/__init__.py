"""How well capacity is predicted: `python -m bench.capacity`. Against real runs, queueing theory and simulated engines."""
