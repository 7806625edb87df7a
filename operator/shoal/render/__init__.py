"""From a plan to Kubernetes objects, statuses and router configuration: plain dictionaries, made by pure functions."""
