"""Shoal: serves small language models on Kubernetes; decides how, and says why."""
