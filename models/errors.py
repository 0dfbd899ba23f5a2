"""The errors of the models, as one small hierarchy.

`service/errors.py` maps each class to an HTTP status, a gRPC code and a stable `code`; nothing here
depends on either. A message is public: it says what was wrong with the caller's input and nothing of
this machine.
"""

from __future__ import annotations

from typing import Final

ECHO: Final = 100
"""Characters of a client's text that an answer repeats at most."""


def echoed(value: object) -> str:
    """A client's value as an error text shows it: its `repr`, cut to about `ECHO` characters.

    Of a text no more than that is looked at, so that the cost does not grow with it. A list is the caller's
    to bound first.
    """
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= ECHO else f"{value[:ECHO]!r}..."
    text = repr(value)
    return text if len(text) <= ECHO else f"{text[:ECHO]}..."


class ModelError(Exception):
    """Base of every error that `models` raises on purpose.

    Attributes:
        image: which of a request's images it was (``a`` or ``b``), or None where there is only one.
    """

    image: str | None = None


class ImageInvalid(ModelError):
    """The bytes do not decode, are cut short, are no base64, hold no pixels, or are a JPEG of a kind that is
    not supported (lossless, arithmetic-coded, hierarchical, 12-bit)."""


class ImageTooLarge(ModelError):
    """Over a limit of bytes, pixels or memory, determined from the header before any pixel is decoded; or a
    JSON text past its limits, which binary tensors are not."""


class MediaTypeUnsupported(ModelError):
    """No accepted format, by declaration or by the bytes."""


class ParameterInvalid(ModelError, ValueError):
    """A parameter, named in `parameter`, is unknown, missing, of another type or out of its range.

    Attributes:
        parameter: the parameter's public name, such as ``top_k``; cut to `ECHO` characters, since it may be
            the client's text.
    """

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail)
        self.parameter = parameter[:ECHO]


class FaceNotFound(ModelError):
    """No face in an image that must have one; `image` says which."""

    def __init__(self, detail: str, image: str | None = None) -> None:
        super().__init__(detail)
        self.image = image


class FacesMany(ModelError):
    """Several faces in an image where exactly one was asked for; `image` says which."""

    def __init__(self, detail: str, image: str | None = None) -> None:
        super().__init__(detail)
        self.image = image


class ModelUnknown(ModelError, KeyError):
    """No such model is served or in the catalogue, or it is of another kind."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class StyleUnknown(ModelError, KeyError):
    """The network has no style of that name."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class WeightsError(ModelError):
    """A weights file is missing, wrong or unreadable; names the model, the file and the remedy."""
