"""Responses that are kept, and conversations that go on from them; answers are scripted."""

import json

from device_runtime.calling.layouts import HERMES
from tests.integration.test_responses import PATH, TOOLS, client_of, prompt_of
from tests.integration.test_tool_calls import ROME, scripted, written


async def test_a_response_goes_on_from_an_earlier_one_without_its_instructions() -> None:
    generator = scripted("Hello.")
    async with client_of(generator) as client:
        _, first = await client.post(PATH, {"input": "Alice am I", "instructions": "Be bright"})
        body = {"input": "Who am I?", "previous_response_id": first["id"]}
        _, second = await client.post(PATH, {**body, "instructions": "Be dark"})
        assert second["previous_response_id"] == first["id"]
        prompt = prompt_of(generator)
        _, _ = await client.post(PATH, {"input": "Really?", "previous_response_id": second["id"]})
        third = prompt_of(generator)
        _, _ = await client.post(PATH, {"input": "And?", "previous_response_id": first["id"]})
    assert "Be bright" not in prompt
    places = [prompt.index(text) for text in ("Be dark", "Alice am I", "Hello.", "Who am I?")]
    assert places == sorted(places)
    assert third.index("Who am I?") < third.rindex("Hello.") < third.index("Really?")
    assert "Who am I?" not in prompt_of(generator)


async def test_the_loop_of_a_tool_by_previous_response_and_by_references() -> None:
    generator = scripted(f"I look. {written(HERMES, ('get_weather', ROME))}")
    async with client_of(generator) as client:
        _, first = await client.post(PATH, {"input": "Weather?", "tools": TOOLS})
        call = first["output"][1]
        result = {
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": "It is sunny.",
        }
        status, _ = await client.post(
            PATH, {"input": [result], "tools": TOOLS, "previous_response_id": first["id"]}
        )
        assert status == 200
        by_previous = prompt_of(generator)
        items = [{"role": "user", "content": "Weather?"}, *first["output"], result]
        references = [
            {"type": "item_reference", "id": item["id"]} if "id" in item else item for item in items
        ]
        for given in (items, references, [*references[:2], {"id": call["id"]}, result]):
            status, answer = await client.post(PATH, {"input": given, "tools": TOOLS})
            assert status == 200, answer
            assert prompt_of(generator) == by_previous
    assert by_previous.index("Weather?") < by_previous.index("I look.")
    assert by_previous.index(json.dumps(ROME)) < by_previous.index("It is sunny.")


async def test_calls_of_a_conversation_have_ids_of_their_own_whatever_requests_are_named() -> None:
    generator = scripted(written(HERMES, ("get_weather", ROME)))
    async with client_of(generator) as client:
        headers = {"X-Request-ID": "one/trace"}
        body = {"input": "Weather?", "tools": TOOLS}
        _, first = await client.post(PATH, body, headers=headers)
        again = {**body, "previous_response_id": first["id"]}
        _, second = await client.post(PATH, again, headers=headers)
        assert first["id"] != second["id"]
        assert first["output"][0]["call_id"] != second["output"][0]["call_id"]
        async with client.http.get(f"{client.url}{PATH}/{first['id']}") as kept:
            assert (await kept.json())["id"] == first["id"]


async def test_what_is_not_stored_cannot_be_gone_on_from() -> None:
    generator = scripted("Hello.")
    async with client_of(generator) as client:
        _, document = await client.post(PATH, {"input": "Hi", "store": False})
        assert document["store"] is False
        assert not generator.requests[0].is_remembered
        previous = {"input": "Hi", "previous_response_id": document["id"]}
        status, answer = await client.post(PATH, previous)
        assert (status, answer["error"]["param"]) == (404, "previous_response_id")
        reference = {"type": "item_reference", "id": document["output"][0]["id"]}
        user = {"role": "user", "content": "Hi"}
        status, answer = await client.post(PATH, {"input": [user, reference]})
        assert (status, answer["error"]["param"]) == (404, "input[1].id")
        async with client.http.get(f"{client.url}{PATH}/{document['id']}") as response:
            assert response.status == 404


async def test_a_deleted_response_is_gone_and_what_went_on_from_it_is_not() -> None:
    async with client_of(scripted("Hello.")) as client:
        _, first = await client.post(PATH, {"input": "Hi"})
        _, second = await client.post(PATH, {"input": "Hi", "previous_response_id": first["id"]})
        url = f"{client.url}{PATH}/{first['id']}"
        async with client.http.delete(url) as response:
            expected = {"id": first["id"], "object": "response", "deleted": True}
            assert await response.json() == expected
        for ask_again in (client.http.get, client.http.delete):
            async with ask_again(url) as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "response_not_found"
        for name, expected_status in ((first["id"], 404), (second["id"], 200)):
            body = {"input": "Hi", "previous_response_id": name}
            status, _ = await client.post(PATH, body)
            assert status == expected_status
        async with client.http.get(f"{client.url}{PATH}/{second['id']}?stream=true") as response:
            assert (await response.json())["error"]["param"] == "stream"


async def test_a_response_that_is_there_cannot_be_cancelled_and_no_other_either() -> None:
    async with client_of(scripted("Hello.")) as client:
        _, first = await client.post(PATH, {"input": "Hi"})
        status, answer = await client.post(f"{PATH}/{first['id']}/cancel", b"")
        assert status == 400
        assert "Cannot cancel a synchronous response" in answer["error"]["message"]
        status, answer = await client.post(f"{PATH}/resp_none/cancel", b"")
        assert (status, answer["error"]["code"]) == (404, "response_not_found")
