"""What is accepted, and the error for all else."""

from __future__ import annotations

from models.errors import MediaTypeUnsupported

MEDIA_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/avif",
    "image/heic",
)
"""Of the accepted formats."""
ACCEPTED = f"{', '.join(MEDIA_TYPES[:-1])} and {MEDIA_TYPES[-1]}"


def not_accepted(name: str | None = None) -> MediaTypeUnsupported:
    """The error for a file of another format, by its name ("a PDF") where it is known."""
    what = f"{name} is not supported" if name else "the image is of no accepted format"
    return MediaTypeUnsupported(f"{what}; accepted are {ACCEPTED}")
