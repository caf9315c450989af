"""What images in an archive are called."""

from __future__ import annotations

from pycontainer.blobs.layout import REF_NAME
from pycontainer.errors import InvalidImage, InvalidReference
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.reference import Reference

# Under this key containerd and Docker write the full name, and under the specification's only the tag.
CONTAINERD_NAME = "io.containerd.image.name"

# Each keeps a descriptor open, the lease of its layers.
MAX_IMAGES = 500


def full_name(text: str, where: str) -> str:
    """`text` as a name for the catalog; InvalidImage naming the field `where` if it cannot be one."""
    try:
        reference = Reference.complete(text)
    except InvalidReference as error:
        raise InvalidImage(f"{where}: {error}") from None
    if reference.digest is not None:
        raise InvalidImage(f"{where}: a name that is given to an image has no digest")
    return str(reference)


def annotated_name(descriptor: Descriptor, where: str) -> str | None:
    """The name that an entry of `index.json` gives an image (image-spec, annotations.md).

    A mere tag ("latest") is none: nothing says of which repository. Neither is what the specification
    allows as ref.name and no reference can be. Raises InvalidImage for a containerd name that is none.
    """
    full = descriptor.annotations.get(CONTAINERD_NAME)
    if full:
        # Images that were pulled by digest are called so.
        return None if "@" in full else full_name(full, f"{where}: {CONTAINERD_NAME}")
    text = descriptor.annotations.get(REF_NAME, "")
    if not any(sign in text for sign in "/:"):
        return None
    try:
        return full_name(text, where)
    except InvalidImage:
        return None
