"""The answer as plain data against its documented model."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from models.classification.result import Classification, Label
from service.engine.engine import Answer
from service.rpc.codec import message_of
from service.rpc.stubs import vision_pb2 as pb
from service.tasks.classify import CLASSIFY, ClassifyAnswer, ClassifyParams, reply
from service.tasks.task import Size
from service.telemetry.timing import Timing

labels = st.lists(
    st.builds(Label, st.integers(0, 2**31 - 1), st.text(max_size=8), st.floats(0, 1)), max_size=4
)
sides = st.integers(1, 2**16)


@given(sides, sides, labels, st.integers(1, 9))
def test_the_answer_is_that_of_its_model(width: int, height: int, found: list[Label], frames: int) -> None:
    result = Classification(width, height, tuple(found), np.zeros(1, np.float32))
    answer = Answer("net", result, Timing(), frames)
    document = ClassifyAnswer(model="net", image=Size.of(answer), labels=found)  # type: ignore[arg-type]
    assert to_json(CLASSIFY.presented(answer, ClassifyParams())) == to_json(document)
    expected = pb.ClassifyReply(
        model="net",
        image=pb.Size(width=width, height=height, frames=frames),
        labels=[pb.Label(index=one.index, label=one.label, score=one.score) for one in found],
    )
    assert message_of(pb.ClassifyReply.DESCRIPTOR, reply(answer, ClassifyParams())) == expected
