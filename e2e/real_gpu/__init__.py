"""The operator with real vLLM on this machine's own GPUs: apply, ramp, scale, clocks from NVML in the status."""
