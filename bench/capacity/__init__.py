"""How well capacity is predicted: `python -m bench.capacity`. Beside real runs, theory and simulated engines."""
