"""The items of an answer, as they begin, grow and end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from device_runtime.api.answer.logprobs import TokenLogprob
from device_runtime.generation.parts import Call, Part, Thought, Words

Event = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]


class OutputItem:
    """One item of the output, and the events of its life. `name` is the response's own."""

    def __init__(self, part: Part, place: int, name: str) -> None:
        self.part = part
        self._place = place
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._status: Status = "in_progress"
        kind = {Words: "msg", Thought: "rs", Call: "fc"}[type(part)]
        self._id = f"{kind}_{name}_{place}"

    def takes(self, part: Part) -> bool:
        """Whether a part is this item's."""
        if isinstance(part, Call):
            return isinstance(self.part, Call) and part.index == self.part.index
        return type(part) is type(self.part)

    def begin(self) -> Iterator[Event]:
        """It is there, and nothing of it."""
        yield self._event("response.output_item.added", item=self._item("in_progress", ""))
        if not isinstance(self.part, Call):
            yield self._part_event("response.content_part.added", self._content(""))

    def score(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Tokens of it without text, at its end."""
        self._logprobs += logprobs

    def grow(self, part: Part, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Event]:
        """More of it came, with the log probabilities of its tokens where they are wanted."""
        self._logprobs += logprobs
        text = part.arguments if isinstance(part, Call) else part.text
        self._text += text
        if not text:
            return
        match part:
            case Words():
                more: Mapping[str, Any] = {"content_index": 0, "logprobs": list(logprobs)}
                yield self._event("response.output_text.delta", delta=text, **more)
            case Thought():
                yield self._event("response.reasoning_text.delta", delta=text, content_index=0)
            case Call():
                yield self._event("response.function_call_arguments.delta", delta=text)

    def end(self, status: Status) -> Iterator[Event]:
        """All of it came, or all there will be."""
        self._status = status
        match self.part:
            case Words():
                more: Mapping[str, Any] = {"content_index": 0, "logprobs": self._logprobs}
                yield self._event("response.output_text.done", text=self._text, **more)
            case Thought():
                done = "response.reasoning_text.done"
                yield self._event(done, text=self._text, content_index=0)
            case Call():
                done = "response.function_call_arguments.done"
                yield self._event(done, arguments=self._text, name=self.part.name)
        if not isinstance(self.part, Call):
            yield self._part_event("response.content_part.done", self._content(self._text))
        yield self._event("response.output_item.done", item=self.whole())

    def whole(self) -> Event:
        """The item as it is now."""
        return self._item(self._status, self._text)

    def _item(self, status: Status, text: str) -> Event:
        match self.part:
            case Words():
                content = [self._content(text)] if text or status != "in_progress" else []
                return {
                    "id": self._id,
                    "type": "message",
                    "role": "assistant",
                    "status": status,
                    "content": content,
                }
            case Thought():
                content = [self._content(text)] if text else []
                return {
                    "id": self._id,
                    "type": "reasoning",
                    "summary": [],
                    "content": content,
                    "status": status,
                }
            case Call():
                return {
                    "id": self._id,
                    "type": "function_call",
                    "status": status,
                    "call_id": self.part.id,
                    "name": self.part.name,
                    "arguments": text,
                }

    def _content(self, text: str) -> Event:
        if isinstance(self.part, Thought):
            return {"type": "reasoning_text", "text": text}
        logprobs = self._logprobs if text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _part_event(self, kind: str, part: Event) -> Event:
        return self._event(kind, content_index=0, part=part)

    def _event(self, kind: str, **more: Any) -> Event:
        ids = {} if "item" in more else {"item_id": self._id}
        return {"type": kind, "output_index": self._place, **ids, **more}
