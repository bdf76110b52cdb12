"""Sessions without a socket give way to new ones, in whole blocks of the KV cache."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.cloud_core import CONFIG, Cloud, figures, opening
from wire.messages import Opened, SessionId


@given(
    sizes=st.lists(st.integers(1, CONFIG.max_context_tokens), max_size=12),
    block_tokens=st.integers(1, 16),
)
@example(sizes=[17, 17, 32], block_tokens=16)
@example(sizes=[9, 9, 9, 9, 32], block_tokens=8)
def test_the_longest_lost_give_way_until_the_blocks_of_a_new_one_are_free(
    sizes: list[int], block_tokens: int
) -> None:
    cloud = Cloud(replace(CONFIG, block_tokens=block_tokens, max_sessions=5))
    num_blocks = CONFIG.capacity_tokens // block_tokens
    lost: list[int] = []
    for key, max_tokens in enumerate(sizes, start=1):
        connection = cloud.connect()
        cloud.received(connection)
        wanted = -(-max_tokens // block_tokens)
        while sum(lost) + wanted > num_blocks or len(lost) == 5:
            lost.pop(0)
        lost.append(wanted)
        opened = cloud.send(connection, opening(1, key, max_tokens))
        assert opened == [Opened(SessionId(1), 0)]
        assert figures(cloud) == (len(lost), sum(lost) * block_tokens)
        cloud.run_all()
        cloud.disconnect(connection)
        cloud.pass_time(1.0)
