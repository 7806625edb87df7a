"""YAML in, YAML out. After a wanted change: `python tests/render/render_cases.py`, then read the difference."""

from __future__ import annotations

import pytest
import yaml
from render_cases import CASES, GOLDEN, load_recipe, render


@pytest.mark.parametrize("case", CASES)
def test_rendered_objects(case: str) -> None:
    expected = list(yaml.safe_load_all((GOLDEN / f"{case}.out.yaml").read_text()))
    assert render(load_recipe(case)) == expected
