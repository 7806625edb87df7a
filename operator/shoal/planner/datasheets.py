"""What makers promise of common GPUs. Estimates start here; a pool's own datasheet comes first."""

from __future__ import annotations

import re
from typing import Final

from shoal.domain.pool import Datasheet, Pool

# NVIDIA's data sheets of these products: memory bandwidth in GB/s, dense 16-bit tensor operations in 10^12 per second
# (figures given for sparse matrices are halved).
_KNOWN: Final = (
    (r"GB10\b", 273, 125),
    (r"B200", 8000, 2250),
    (r"GH200", 4000, 989),
    (r"H200", 4800, 989),
    (r"H100.*PCIe", 2000, 756),
    (r"H100.*NVL", 3900, 835),
    (r"H100.*64GB", 2020, 989),  # the HBM2e part of some supercomputers
    (r"H100", 3350, 989),
    (r"H20\b", 4000, 148),
    (r"A[18]00.*80GB", 2039, 312),
    (r"A100", 1555, 312),
    (r"A800", 2039, 312),
    (r"L40S", 864, 362),
    (r"L40\b", 864, 181),
    (r"L4\b", 300, 121),
    (r"A10G", 600, 70),  # as AWS documents its G5 instances
    (r"A10\b", 600, 125),
    (r"A30\b", 933, 165),
    (r"A40\b", 696, 150),
    (r"A6000", 768, 155),
    (r"RTX-6000-Ada", 960, 364),
    (r"V100", 900, 125),
    (r"T4\b", 320, 65),
    (r"RTX-5090", 1792, 210),
    (r"RTX-4090", 1008, 165),  # 16-bit products summed in 32 bits
    (r"RTX-4080", 717, 98),
    (r"RTX-3090", 936, 71),
    (r"Orin", 205, 85),
)
SLOWEST: Final = Datasheet(memory_bandwidth=300e9, flops_16bit=60e12)
"""Assumed of a GPU nobody knows: no faster than the slowest one that is still common."""


def find_datasheet(pool: Pool) -> tuple[Datasheet, bool]:
    """The pool's datasheet and whether it is a known one (False: the slowest common GPU is assumed)."""
    given = pool.datasheet
    if given is not None and given.memory_bandwidth > 0 and given.flops_16bit > 0:
        return given, True
    known = known_datasheet(pool.accelerator)
    return (SLOWEST, False) if known is None else (known, True)


def known_datasheet(accelerator: str) -> Datasheet | None:
    """What the maker promises of this product; None when it is not among the common ones."""
    for pattern, bandwidth, teraflops in _KNOWN:
        if re.search(pattern, accelerator, re.IGNORECASE):
            return Datasheet(memory_bandwidth=bandwidth * 1e9, flops_16bit=teraflops * 1e12)
    return None
