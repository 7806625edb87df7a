"""How far the simulated engine is from real ones, and from queueing theory where that is exact."""
