"""The API server with our CRDs, and what it says of many objects at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from api_samples import CRDS, PLURALS, Object, Verdicts

from e2e.devcluster import DevCluster
from e2e.devcluster.client import ApiError


@pytest.fixture(scope="session")
def crds(control_plane: DevCluster) -> DevCluster:
    """The control plane with all CRDs established."""
    control_plane.apply(list(CRDS.values()))
    for crd in CRDS.values():
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
        control_plane.wait_for(path, _is_established)
    return control_plane


def _is_established(crd: Object) -> bool:
    conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions", [])}
    if conditions.get("NonStructuralSchema") == "True":
        raise AssertionError(crd["status"])
    return conditions.get("Established") == "True"


@pytest.fixture(scope="session")
def verdicts(crds: DevCluster) -> Verdicts:
    """For each object: None when the API server would create it, else its message. Unknown fields are refused."""

    async def ask(objects: Sequence[Object]) -> list[str | None]:
        async with crds.client() as client:

            async def one(item: Object) -> str | None:
                plural = PLURALS[item["kind"]]
                scope = "/namespaces/default" if item["kind"] in ("ModelService", "ModelProfile", "ProfileRun") else ""
                path = f"/apis/shoal.dev/v1alpha1{scope}/{plural}"
                try:
                    await client.request(
                        "POST", path, item, params={"dryRun": "All", "fieldValidation": "Strict"}, timeout=60.0
                    )
                except ApiError as error:
                    if error.status not in (400, 422):
                        raise
                    return str(error)
                return None

            return await asyncio.gather(*(one(item) for item in objects))

    return lambda objects: asyncio.run(ask(objects))
