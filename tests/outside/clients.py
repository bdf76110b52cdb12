"""`python -m tests.outside.clients URL [NAME...]`: Python's clients, each with its ordinary use.

It needs nothing of this project but the endpoint at URL (http://127.0.0.1:8000/v1), and looks for
its clients in the environment it runs in. A case that raises nothing worked.
"""

import asyncio
import importlib.metadata
import sys

from tests.outside.cases import frameworks, more_frameworks, other_apis, packages
from tests.outside.cases.asking import CALLED, CASES

MODULES = (packages, frameworks, more_frameworks, other_apis)
"""Whose cases are run, in this order."""

_PACKAGES = {
    "agents": "openai-agents",
    "autogen": "autogen-ext",
    "haystack": "haystack-ai",
    "langchain": "langchain-openai",
    "llama_index": "llama-index-llms-openai-like",
    "pydantic_ai": "pydantic-ai-slim",
    "semantic_kernel": "semantic-kernel",
}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Run the cases and print what came of them."""
    wanted, num_failed = sys.argv[2:], 0
    print("| client | version | case | tools run | result |\n|---|---|---|---|---|")
    for name, function in CASES:
        client, _, what = name.partition("__")
        if wanted and client not in wanted:
            continue
        version = _version(_PACKAGES.get(client, client))
        CALLED.clear()
        try:
            made = function()
            if asyncio.iscoroutine(made):
                made = asyncio.run(made)
            told = "ok: " + " ".join(str(made).split())[:80]
        except ImportError as error:
            told = f"not installed: {error}"[:120]
        except Exception as error:  # noqa: BLE001  (whatever a client raises is the result)
            num_failed += 1
            told = f"FAILED: {type(error).__name__}: " + " ".join(str(error).split())[:200]
        print(
            f"| {client} | {version} | {what} | {len(CALLED)} | {told.replace('|', '/')} |",
            flush=True,
        )
    sys.exit(num_failed > 0)


if __name__ == "__main__":
    main()
