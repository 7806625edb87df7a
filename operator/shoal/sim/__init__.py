"""Simulated engines, fleets and traffic: in real time behind HTTP, and in virtual time behind the real `decide()`."""
