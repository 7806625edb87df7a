"""Which model, and where an engine loads it from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Rule, Shape, exactly_one, exactly_one_cel
from shoal.api.fields import DNSSubdomain, ImageReference, ModelName, ParameterCount, RelativePath, Revision


class HuggingFaceSource(Shape):
    """A repository on Hugging Face, by the name of the model."""

    token_secret_name: DNSSubdomain | None = Field(
        None,
        description="Secret of this namespace with the access token under `token`; only the engine's pod reads it. "
        "Default: none.",
    )


class VolumeSource(Shape):
    """A directory of a volume that already holds the model."""

    claim_name: DNSSubdomain = Field(description="Claim of this namespace; mounted read-only.")
    path: RelativePath | None = Field(None, description="Relative directory of the model. Default: the volume's root.")


class ImageSource(Shape):
    """An OCI image whose files are the model; mounted as a volume."""

    reference: ImageReference = Field(description="Image, best by digest.")


class ModelSource(Shape):
    """Where the engine loads the model from. The EngineClass may allow only some of these."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("hugging_face", "persistent_volume_claim", "oci_image"),
            "give exactly one source: huggingFace, persistentVolumeClaim or ociImage",
            exactly_one("hugging_face", "persistent_volume_claim", "oci_image"),
        ),
    )

    hugging_face: HuggingFaceSource | None = Field(None, description="A repository on Hugging Face.")
    persistent_volume_claim: VolumeSource | None = Field(None, description="A volume that already holds the model.")
    oci_image: ImageSource | None = Field(None, description="An OCI image that holds the model.")


class ModelReference(Shape):
    """Which model, and where it comes from."""

    name: ModelName = Field(
        description="Name as on Hugging Face, organisation/name; profiles are found by it, whatever the source."
    )
    revision: Revision | None = Field(
        None,
        description="Commit, tag or branch. Only a full commit pins the weights (see condition RevisionNotPinned). "
        f"Default: {defaults.REVISION}.",
    )
    max_context_tokens: int | None = Field(
        None,
        ge=64,
        le=16_777_216,
        description="Longest prompt and answer together. Default: the model's limit, at most "
        f"{defaults.MAX_CONTEXT_TOKENS}.",
    )
    parameters: ParameterCount | None = Field(
        None,
        description="Number of parameters, as in 7.6B or 125M, if neither name nor profile tells it.",
    )
    source: ModelSource | None = Field(None, description="Where it is loaded from. Default: Hugging Face, no token.")
