"""The table of errors: complete, stable, and silent about what is internal."""

from __future__ import annotations

import http

import pytest

from models import errors as science
from service import errors
from service.errors import INTERNAL, TABLE, problem_of

GRPC = {
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
    "INTERNAL",
}


def leaves(base: type[Exception]) -> list[type[Exception]]:
    below = base.__subclasses__()
    return [leaf for cls in below for leaf in (leaves(cls) or [cls])]


def test_every_public_error_has_a_row() -> None:
    internal = {science.WeightsError}  # at start only; over the wire it is internal
    for error in {*leaves(science.ModelError), *leaves(errors.ServiceError)} - internal:
        if error.__module__ in (science.__name__, errors.__name__):
            assert error in TABLE, error


def test_rows_are_distinct_and_valid() -> None:
    rows = [*TABLE.values(), INTERNAL]
    assert len({row.code for row in rows}) == len(rows)
    for row in rows:
        assert row.http in {status.value for status in http.HTTPStatus}
        assert row.grpc in GRPC


def test_an_internal_error_leaks_nothing() -> None:
    problem = problem_of(RuntimeError("password=hunter2 at /etc/secret"))
    assert problem.kind is INTERNAL
    assert "hunter2" not in str(problem.body())
    assert problem_of(science.WeightsError("/home/me/file")).kind is INTERNAL


def test_a_subclass_has_its_bases_row() -> None:
    class Special(science.ImageInvalid):
        pass

    assert problem_of(Special("odd")).kind.code == "image_invalid"


@pytest.mark.parametrize(
    ("error", "members"),
    [
        (science.ParameterInvalid("top_k", "too many"), {"code": "parameter_invalid", "parameter": "top_k"}),
        (science.FaceNotFound("none", "b"), {"code": "face_not_found", "image": "b", "status": 422}),
        (science.ModelUnknown("no such model"), {"code": "model_unknown", "detail": "no such model"}),
        (errors.Overloaded("full", 2.5), {"code": "overloaded", "status": 429}),
    ],
)
def test_members(error: Exception, members: dict[str, object]) -> None:
    assert members.items() <= problem_of(error).body().items()


def test_retry_after_is_kept() -> None:
    assert problem_of(errors.Overloaded("full", 2.5)).retry_after == 2.5
