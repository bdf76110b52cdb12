"""Tools that an answer may call, and how it may."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tool:
    """One that a request offers. `where` is its place in the request, for errors."""

    name: str
    parameters: Mapping[str, Any]
    """A JSON schema of the arguments, which are an object."""
    where: str
    description: str = ""
    is_strict: bool = False
    """Whether what no grammar can hold to is a fault in its schema; else it is passed over."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a request, at least one.

    `choice`: auto lets the answer be words, or begin with words, or be calls; required and a tool's
    own name (in `named`) want calls and nothing else. One call only unless `in_parallel`.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required"] = "auto"
    named: str | None = None
    in_parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Those that may be called."""
        if self.named is None:
            return self.tools
        return tuple(tool for tool in self.tools if tool.name == self.named)
