from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from routers import Router, running_router


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    async with running_router(tmp_path) as router:
        yield router
