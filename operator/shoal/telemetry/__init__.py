"""Readers of engines, routers, GPUs and Prometheus; the GPU agent; the operator's own metrics."""
