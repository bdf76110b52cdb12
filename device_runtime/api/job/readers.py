"""What finds out what the text of an answer is made of: words, thoughts, calls of tools."""

from hashlib import blake2b

from device_runtime.api.job.prompts import EncodedChat
from device_runtime.api.service import Service
from device_runtime.calling.layouts import Layout
from device_runtime.calling.reader import CallReader
from device_runtime.calling.tools import Offer
from device_runtime.generation.parts import PlainReader, Reader
from device_runtime.thinking.marks import is_thinking
from device_runtime.thinking.reader import ThoughtReader


def reader_of(
    service: Service, offer: Offer | None, chat: EncodedChat, request_id: str, index: int
) -> Reader:
    """That of the choice of this index, which answers this prompt.

    Ids of calls are the request's own, and the prompt's: a client may name all requests of a
    conversation alike, and its calls must not be mistaken for each other.
    """
    reader: Reader = PlainReader()
    if offer is not None:
        reader = _call_reader(service.call_layout, offer, f"{request_id}/{index}/{chat.text}")
    marks = service.thought_marks
    if marks is None:
        return reader
    return ThoughtReader(marks, is_thinking(marks, chat.text, chat.begun), reader)


def _call_reader(layout: Layout, offer: Offer, name: str) -> CallReader:
    def make_id(number: int) -> str:
        digest = blake2b(f"{name}/{number}".encode(), digest_size=16).hexdigest()
        return layout.id_prefix + digest[: layout.id_digits]

    return CallReader(layout, offer, make_id)
