"""Who decides in a simulation: Shoal's own `decide()`, and the laws of other autoscalers to compare it with."""
