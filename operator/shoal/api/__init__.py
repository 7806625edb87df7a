"""The custom resources: the only source of their names, bounds, descriptions and CEL rules.

`python -m shoal.api.generate` writes `crds/` and the chart's copies from these models; `shoal.api.load`
reads objects.
"""
