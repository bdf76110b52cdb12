"""What is kept of responses, and for how long."""

from device_runtime.api.responses.request import Item
from device_runtime.api.responses.store import ResponseStore, Stored


def stored(name: str, num_bytes: int = 1) -> Stored:
    item = Item(role="assistant", content="x", id=f"msg_{name}")
    return Stored((item,), {"id": name}, num_bytes, {f"msg_{name}": item})


def test_a_response_and_its_items_are_found_until_they_are_deleted():
    store = ResponseStore()
    store.put("a", stored("a"))
    assert store.get("a") == stored("a")
    assert store.item("msg_a") == stored("a").items[0]
    assert store.delete("a")
    assert not store.delete("a")
    assert store.get("a") is None
    assert store.item("msg_a") is None


def test_of_too_many_the_one_used_least_recently_goes():
    store = ResponseStore(max_responses=2)
    store.put("a", stored("a"))
    store.put("b", stored("b"))
    assert store.get("a")
    store.put("c", stored("c"))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]
    assert store.item("msg_b") is None


def test_of_too_much_text_as_many_go_as_needed():
    store = ResponseStore(max_bytes=10)
    for name in "abc":
        store.put(name, stored(name, 3))
    store.put("d", stored("d", 6))
    assert [store.get(name) is not None for name in "abcd"] == [False, False, True, True]


def test_what_is_too_long_by_itself_is_not_kept_and_drives_nothing_out():
    store = ResponseStore(max_bytes=10)
    store.put("a", stored("a", 3))
    store.put("b", stored("b", 11))
    assert store.get("a") is not None
    assert store.get("b") is None
