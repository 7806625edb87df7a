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
        description="Secret of this namespace whose key `token` holds the access token; the kubelet gives it to the "
        "engine, Shoal never reads it. Default: no token.",
    )


class VolumeSource(Shape):
    """A directory of a volume that already holds the model."""

    claim_name: DNSSubdomain = Field(description="PersistentVolumeClaim of this namespace; mounted read-only.")
    path: RelativePath | None = Field(
        None, description="Directory of the model inside the volume, relative. Default: the root of the volume."
    )


class ImageSource(Shape):
    """An OCI image whose files are the model; mounted as a volume."""

    reference: ImageReference = Field(description="Reference of the image, best by digest.")


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
        description="Name of the model as on Hugging Face, organisation/name. Profiles are looked up by it, whatever "
        "the source."
    )
    revision: Revision | None = Field(
        None,
        description="Commit, tag or branch of the model. Give a full commit: with anything else a restarted engine may "
        "load other weights, and condition RevisionNotPinned of a ModelService says so. "
        f"Default: {defaults.REVISION}.",
    )
    max_context_tokens: int | None = Field(
        None,
        ge=64,
        le=16_777_216,
        description="Longest prompt and answer together, in tokens. It decides what fits into the memory of a GPU. "
        f"Default: the model's own limit, at most {defaults.MAX_CONTEXT_TOKENS}.",
    )
    parameters: ParameterCount | None = Field(
        None,
        description="Number of parameters, as in 7.6B or 125M. Needed only when neither the name of the model nor a "
        "profile tells it.",
    )
    source: ModelSource | None = Field(
        None, description="Where the engine loads the model from. Default: Hugging Face, without a token."
    )
