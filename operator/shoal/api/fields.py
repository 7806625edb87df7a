"""Kinds of values that several resources share: each with its bounds, none without."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PATH_STEP: Final = r"[A-Za-z0-9_](\.?[A-Za-z0-9_-])*"

DNSLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{LABEL}$")]
"""Lower-case letters, digits and `-`: names of pools and classes."""

DNSSubdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{LABEL}(\.{LABEL})*$")]
"""Names of Kubernetes objects."""

ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*(/[A-Za-z0-9](\.?[A-Za-z0-9_-])*)?$",
    ),
]
"""`organisation/name`: no leading `-`, no `..`, nothing a shell, a path or a query could read as more than a name."""

Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_/-])*$")]
"""A branch, tag or commit."""

ServedName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_:/-])*$")]
"""What clients send as `model`."""

RelativePath = Annotated[str, Field(min_length=1, max_length=512, pattern=rf"^{_PATH_STEP}(/{_PATH_STEP})*$")]
"""A path inside a volume; cannot leave it."""

ImageReference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        pattern=(
            r"^[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
            r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[a-f0-9]{64})?$"
        ),
    ),
]
"""`registry/repository:tag@sha256:digest`; tag and digest may be left out."""

ParserName = Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z][a-z0-9_-]*$")]

ParameterCount = Annotated[
    str,
    Field(
        min_length=2,
        max_length=9,
        pattern=r"^(0\.[0-9]{0,2}[1-9]0?|[1-9][0-9]{0,3}(\.[0-9]{1,3})?)[MB]$",
    ),
]
"""`7.6B`, `125M`: never zero."""

LABEL_KEY: Final = "a label key is an optional DNS prefix with / and a name of letters, digits, -, _ and ."

QualifiedName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=rf"^({LABEL}(\.{LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description=LABEL_KEY,
    ),
]
"""Key of a label or taint."""

LabelValue = Annotated[str, Field(max_length=63, pattern="^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]

Labels = Annotated[dict[QualifiedName, LabelValue], Field(max_length=16)]

ExtendedResource = Annotated[
    str,
    Field(min_length=3, max_length=253, pattern=rf"^{LABEL}(\.{LABEL})*/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
]

AcceleratorName = Annotated[
    str, Field(min_length=1, max_length=63, pattern="^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
"""A product name with dashes for blanks, as GPU feature discovery writes it: `NVIDIA-H100-80GB-HBM3`."""

Money = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
"""A decimal string, so that no writer rounds it."""

CamelWord = Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z][A-Za-z0-9]*$")]
"""A machine-readable reason."""

Sentence = Annotated[str, Field(max_length=512)]
"""Plain words with numbers."""

Timestamp = Annotated[
    str,
    Field(
        min_length=20,
        max_length=35,
        pattern=(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"),
    ),
]
"""RFC 3339, by pattern: with `format: date-time` the API server lets an empty list pass as a string."""


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # True == 1 in Python, not in JSON
        raise ValueError("a number is needed, not a boolean")
    return value


TensorParallel = Annotated[Literal[1, 2, 4, 8], BeforeValidator(_refuse_boolean)]
EnginesPerGPU = Annotated[Literal[1, 2, 4, 8], BeforeValidator(_refuse_boolean)]

GPUCount = Annotated[int, Field(ge=0, le=100_000)]
Replicas = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(ge=0, le=1_000_000)]
"""Requests per second."""
Tokens = Annotated[float, Field(ge=1, le=16_777_216)]
Milliseconds = Annotated[float, Field(ge=0, le=3_600_000)]
Ratio = Annotated[float, Field(ge=0, le=1)]
BatchLimit = Annotated[int, Field(ge=1, le=1_048_576)]
APIServers = Annotated[int, Field(ge=1, le=16)]
Generation = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]

_QUANTITY_SUFFIXES: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}
_BYTES_PATTERN: Final = r"^[0-9]{1,15}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$"
_CPU_PATTERN: Final = r"^[0-9]{1,6}(m|\.[0-9]{1,3})?$"


def parse_quantity(text: str) -> Decimal:
    """The number behind a Kubernetes quantity (`80Gi`, `500m`, `4`). The text has passed its pattern."""
    number = text.rstrip("kmMGTKi")
    return Decimal(number) * _QUANTITY_SUFFIXES[text[len(number) :]]


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _int_or_string(pattern: str, largest: int) -> WithJsonSchema:
    schema = {"x-kubernetes-int-or-string": True, "minimum": 0, "maximum": largest, "maxLength": 20, "pattern": pattern}
    return WithJsonSchema(schema)


Bytes = Annotated[
    str,
    Field(min_length=1, max_length=20, pattern=_BYTES_PATTERN),
    BeforeValidator(_as_text),
    _int_or_string(_BYTES_PATTERN, 10**15 - 1),
]
"""A quantity of memory; a bare integer means bytes."""

CPU = Annotated[
    str,
    Field(min_length=1, max_length=20, pattern=_CPU_PATTERN),
    BeforeValidator(_as_text),
    _int_or_string(_CPU_PATTERN, 10**6 - 1),
]
"""A quantity of CPU cores."""
