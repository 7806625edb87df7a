"""The main job in a few minutes: simulated engines; real API server, scheduler, Envoy."""
