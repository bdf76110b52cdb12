"""The cloud's core and frames whose rows branch (rules W36 to W38)."""

from dataclasses import replace

import pytest

from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    Row,
    one_fault,
    opening,
    shallow_rows,
    states,
)
from wire.errors import FaultCode, LocalProtocolError
from wire.messages import Codec, Dtype, Fault, SessionId, States, Want, Welcome
from wire.trees import MAX_TREE_ROWS, join_tree

BRANCHING = replace(
    CONFIG,
    takes_trees=True,
    max_frame_tokens=64,
    credit_window_tokens=128,
    step_budget_tokens=64,
    verify_tokens=MAX_TREE_ROWS,
    max_context_tokens=64,
)
OFFER = replace(HELLO, codecs=0b11)
A = shallow_rows(*range(100, 140))
PARENTS = (0, 0, 1, 1, 0)


def tree(position: int, rows: list[Row], parents: tuple[int, ...], epoch: int = 0) -> States:
    place = (SessionId(1), epoch, position, len(rows))
    payload = join_tree(parents, b"".join(rows))
    return States(*place, Dtype.FP32, Codec.RAW_TREE, Want.ALL, payload)


def opened_cloud() -> tuple[Cloud, int]:
    cloud = Cloud(BRANCHING)
    connection = cloud.connect(OFFER)
    cloud.send(connection, opening(1, key=1, max_tokens=40))
    return cloud, connection


def test_a_tree_goes_first_and_whole_and_counts_only_its_first_chain_as_cached() -> None:  # W37
    cloud, connection = opened_cloud()
    cloud.send(connection, states(1, 0, A[:6], Want.NONE))
    cloud.run_all()
    cloud.send(connection, tree(6, A[6:11], PARENTS))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    (work,) = step.items
    assert (work.position, work.num_rows, work.parents) == (6, 5, PARENTS)
    assert bytes(work.payload) == b"".join(A[6:11])
    cloud.finish_step(step)
    reply = cloud.replies(connection)[-1]
    assert (reply.codec, reply.num_rows, reply.cached_tokens) == (Codec.RAW, 5, 6 + 3)


@pytest.mark.parametrize("runs_first", [True, False])
def test_nothing_follows_a_branch_that_is_not_the_first(runs_first: bool) -> None:  # W37
    cloud, connection = opened_cloud()
    cloud.send(connection, tree(0, A[:5], PARENTS))
    if runs_first:
        cloud.run_all()
    cloud.send(connection, states(1, 3, A[5:6]))
    fault = one_fault(cloud.send(connection, states(1, 5, A[6:7])))
    assert fault.code is FaultCode.POSITION_MISMATCH


def test_a_tree_needs_places_for_all_its_rows() -> None:  # W37
    cloud, connection = opened_cloud()
    cloud.send(connection, states(1, 0, A[:36], Want.NONE))
    fault = one_fault(cloud.send(connection, tree(36, A[:5], PARENTS)))
    assert fault.code is FaultCode.CONTEXT_EXCEEDED


def test_a_cloud_without_trees_does_not_offer_them_and_refuses_them() -> None:  # W38
    cloud = Cloud()
    connection = cloud.connect(OFFER)
    (welcome,) = cloud.received(connection)
    assert isinstance(welcome, Welcome)
    assert welcome.codecs == 0b1
    cloud.send(connection, opening(1, key=1))
    frame = tree(0, A[:5], PARENTS)
    with pytest.raises(LocalProtocolError, match="RAW_TREE"):
        cloud.send(connection, frame)
    (fault,) = cloud.send_unchecked(connection, frame)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, 0)


def test_a_device_that_knows_no_trees_is_served_as_ever() -> None:  # W38
    cloud = Cloud(BRANCHING)
    connection = cloud.connect(HELLO)
    (welcome,) = cloud.received(connection)
    assert isinstance(welcome, Welcome)
    assert welcome.codecs == 0b1


def test_trees_need_verifications_that_hold_them() -> None:
    with pytest.raises(ValueError, match=f"verify_tokens of at least {MAX_TREE_ROWS}"):
        replace(BRANCHING, verify_tokens=MAX_TREE_ROWS - 1)
