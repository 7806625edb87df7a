from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from exporters import Exporter, next_address


@pytest.fixture
async def export() -> AsyncIterator[Callable[..., Awaitable[Exporter]]]:
    """Makes running exporters and ends them."""
    exporters: list[Exporter] = []

    async def make(port: int = 8000, *, address: str | None = None, **settings: Any) -> Exporter:
        exporter = Exporter(address or next_address(), port, **settings)
        await exporter.start()
        exporters.append(exporter)
        return exporter

    yield make
    for exporter in exporters:
        await exporter.stop()
