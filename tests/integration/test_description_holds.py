"""schemathesis asks the endpoint what its description says, and what it says will be refused."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from tests.integration.test_thinking import scripted, service_of
from tests.support.api_server import serving

SEED = 14
NUM_EXAMPLES = 5
AT_MOST_S = 240.0

CONFIG = """
[checks]
# What a request has to be beside its schema (names that differ, a grammar that compiles) is a 400.
positive_data_acceptance.enabled = false
# A list of too many entries may be too long a body.
negative_data_rejection.expected-statuses = ["400", "403", "404", "405", "413", "415", "501"]

[[operations]]
# Embeddings are refused by name, and described as refused.
include-path-regex = "/embed(dings)?$"
checks.not_a_server_error.expected-statuses = ["4xx", "501"]

[[operations]]
# With `"store": false` there is none to get.
include-path-regex = "^/v1/responses/.id."
checks.ensure_resource_availability.enabled = false
"""


@pytest.mark.slow
async def test_schemathesis_finds_no_difference(tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    async with serving(service_of(scripted("<think>\nHm, 4.\n</think>\n\nFour."))) as client:
        async with client.http.get(f"{client.url}/openapi.json") as response:
            description = msgspec.json.decode(await response.read())
        options = ["run", f"{client.url}/openapi.json", "--seed", str(SEED)]
        options += ["--max-examples", str(NUM_EXAMPLES), "--generation-database", "none"]
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color"),
            *options,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(AT_MOST_S):
                told, _ = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    text = "\n".join(line[:400] for line in told.decode().splitlines())
    assert program.returncode == 0, text
    # It leaves out the description itself.
    num_operations = sum(map(len, description["paths"].values())) - 1
    assert f"Tested: {num_operations}" in text
