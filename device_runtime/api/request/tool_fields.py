"""Tools in the words of OpenAI's chat API: what may be called, and whether it must be."""

import re
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.calling.tools import Offer, Tool

MAX_TOOLS = 512

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


class FunctionDefinition(Struct, frozen=True):
    """A function that may be called. Arguments fit `parameters`; what of those cannot be held to is
    passed over, unless it is `strict`."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class ToolDefinition(Struct, frozen=True):
    """An entry of `tools`."""

    function: FunctionDefinition | None = None
    type: str = "function"


Tools = Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)]


class ToolFields(Protocol):
    """The fields of a request that are about tools."""

    @property
    def tools(self) -> list[ToolDefinition] | None:
        """What may be called."""
        ...

    @property
    def tool_choice(self) -> Any:
        """Whether it must be: "none", "auto", "required", or a tool."""
        ...

    @property
    def parallel_tool_calls(self) -> bool | None:
        """Whether an answer may have several calls; None: it may."""
        ...


class FunctionCall(Struct, frozen=True):
    """A call in an earlier answer; `arguments` is JSON as a text, or the object itself."""

    name: str
    arguments: Any = None


class ToolCall(Struct, frozen=True):
    """An entry of an earlier answer's `tool_calls`."""

    function: FunctionCall
    id: str | None = None
    type: str | None = None


class _NamedFunction(Struct, frozen=True):
    name: str


class _NamedTool(Struct, frozen=True):
    type: Literal["function"]
    function: _NamedFunction


class _Allowed(Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class _AllowedTools(Struct, frozen=True):
    allowed_tools: _Allowed


def offer_of(fields: ToolFields) -> Offer | None:
    """What an answer may call; None: nothing.

    Raises:
        ApiError: 400, naming the tool or choice at fault.
    """
    choice = fields.tool_choice
    if not fields.tools:
        if choice in (None, "none", "auto"):
            return None
        raise invalid("tool_choice", "tool_choice: only allowed when tools are there")
    tools = tuple(_tool(given, f"tools[{place}]") for place, given in enumerate(fields.tools))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            where = f"tools[{place}].function.name"
            raise invalid(where, f"{where}: expected different names, got {name!r} twice")
    in_parallel = fields.parallel_tool_calls is not False
    match choice:
        case None | "auto":
            return Offer(tools, "auto", None, in_parallel)
        case "none":
            return None
        case "required":
            return Offer(tools, "required", None, in_parallel)
        case {"type": "allowed_tools"}:
            return _allowed(choice, tools, in_parallel)
        case _:
            return Offer(tools, "required", _named(choice, names), in_parallel=False)


def _allowed(choice: Any, tools: tuple[Tool, ...], in_parallel: bool) -> Offer:
    """Some of the tools; the model is told of all, so that its prompt stays the same."""
    try:
        allowed = msgspec.convert(choice, _AllowedTools).allowed_tools
    except msgspec.ValidationError as error:
        expected = 'expected {"mode": "auto" or "required", "tools": [...]}'
        where = "tool_choice.allowed_tools"
        raise invalid(where, f"{where}: {expected}") from error
    names = [tool.name for tool in tools]
    wanted = {_of_offered(each.function.name, names) for each in allowed.tools}
    some = tuple(tool for tool in tools if tool.name in wanted)
    return Offer(some, allowed.mode, None, in_parallel)


class _Offering(Protocol):
    """What has tools."""

    @property
    def tools(self) -> list[ToolDefinition] | None:
        """Which."""
        ...


def plain_tools(fields: _Offering) -> list[dict[str, Any]]:
    """The tools as chat templates know them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in fields.tools or ()
        if tool.function is not None
    ]


def _tool(given: ToolDefinition, where: str) -> Tool:
    if given.type != "function":
        came = f"expected 'function', got {given.type[:40]!r}"
        raise unsupported(f"{where}.type", f"{where}.type: {came}; only functions are supported")
    if given.function is None:
        raise invalid(f"{where}.function", f"{where}.function: this field is required")
    where = f"{where}.function"
    if not _NAME.fullmatch(given.function.name):
        expected = "expected 1 to 128 letters, digits and characters of _.:/-"
        came = given.function.name[:40]
        raise invalid(f"{where}.name", f"{where}.name: {expected}, got {came!r}")
    where = f"{where}.parameters"
    parameters = {} if given.function.parameters is None else given.function.parameters
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise invalid(where, f"{where}: expected a JSON schema of an object")
    description, is_strict = given.function.description or "", bool(given.function.strict)
    return Tool(given.function.name, parameters, where, description, is_strict)


def _named(choice: Any, names: list[str]) -> str:
    try:
        name = msgspec.convert(choice, _NamedTool).function.name
    except msgspec.ValidationError as error:
        expected = 'expected "none", "auto", "required" or {"type": "function", "function": ...}'
        raise invalid("tool_choice", f"tool_choice: {expected}") from error
    return _of_offered(name, names)


def _of_offered(name: str, names: list[str]) -> str:
    if name not in names:
        raise invalid("tool_choice", f"tool_choice: expected one of tools, got {name[:128]!r}")
    return name
