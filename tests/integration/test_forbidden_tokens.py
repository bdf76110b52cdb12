"""Allowed tokens and bad words over HTTP: what the runtime is asked, for each kind of request."""

from tests.support.api_server import CHAT, COMPLETIONS, USER, encoded, story_server
from tests.support.tokenizers import story_tokenizer


async def test_words_are_forbidden_as_tokens_with_and_without_a_space_before_them() -> None:
    tokenizer = story_tokenizer()
    async with story_server() as (client, generator):
        for path, prompt in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": USER})):
            body = {**prompt, "bad_words": ["little dog", " happy", "little dog"], "n": 2}
            status, _ = await client.post(path, {**body, "allowed_token_ids": [7, 5]})
            assert status == 200
    words = ("little dog", " little dog", "happy", " happy")
    rows = tuple(tuple(tokenizer.encode(word, add_special_tokens=False)) for word in words)
    assert [request.sampling.bad_words for request in generator.requests] == 4 * [rows]
    assert {*map(tuple, (r.sampling.allowed_token_ids for r in generator.requests))} == {(7, 5)}
    assert rows[0] == tuple(encoded("little dog"))


async def test_without_a_wish_nothing_is_forbidden() -> None:
    async with story_server() as (client, generator):
        await client.post(COMPLETIONS, {"prompt": "a", "bad_words": []})
    [request] = generator.requests
    assert (request.sampling.allowed_token_ids, request.sampling.bad_words) == (None, ())
