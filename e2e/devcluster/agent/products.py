"""Datasheet values of the GPUs that nodes may pretend to have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """A GPU model as NVML and NVIDIA's DRA driver describe it."""

    architecture: str
    compute_capability: str
    max_clock_mhz: int
    power_watts: int


# Maximum SM clock as NVML reports it, and board power, from NVIDIA's product briefs.
_PRODUCTS = {
    "NVIDIA-H100-80GB-HBM3": Product("Hopper", "9.0.0", 1980, 700),
    "NVIDIA-H100-PCIe": Product("Hopper", "9.0.0", 1755, 350),
    "NVIDIA-H200": Product("Hopper", "9.0.0", 1980, 700),
    "NVIDIA-B200": Product("Blackwell", "10.0.0", 1965, 1000),
    "NVIDIA-A100-SXM4-80GB": Product("Ampere", "8.0.0", 1410, 400),
    "NVIDIA-L40S": Product("Ada Lovelace", "8.9.0", 2520, 350),
    "NVIDIA-L4": Product("Ada Lovelace", "8.9.0", 2040, 72),
    "NVIDIA-GB10": Product("Blackwell", "12.1.0", 2418, 140),
}
# A product that is not listed behaves like the H100 but for its name.
_OTHER = _PRODUCTS["NVIDIA-H100-80GB-HBM3"]


def find_product(accelerator: str) -> Product:
    """Return what is known of an accelerator (name with dashes)."""
    return _PRODUCTS.get(accelerator, _OTHER)


def product_name(accelerator: str) -> str:
    """Return the name as NVML writes it: `NVIDIA H100 80GB HBM3`."""
    if accelerator.startswith("NVIDIA-A100-SXM4"):
        return accelerator.replace("NVIDIA-", "NVIDIA ", 1)
    return accelerator.replace("-", " ")
