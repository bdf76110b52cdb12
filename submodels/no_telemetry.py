"""Nothing phones home: the switches of every dependency that would, set before it is imported.

Some libraries act while they are imported: ONNX Runtime writes a persistent device id and a queue
of events into the user's cache. So the rooms that use such libraries call this in their
`__init__`, which runs before any module of theirs. docs/security.md has the table.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        # Of all libraries that follow the convention: huggingface_hub and vLLM do.
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # transformers asks a service to convert a hub's model that has no safetensors.
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # vLLM can start it.
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
"""Environment variables and the values that mean silence."""


def switch_off_telemetry() -> None:
    """Set every switch in this process, and so in those it starts.

    A value that is there already is replaced: an empty `ORT_DISABLE_TELEMETRY`, or `0`, would
    leave it on, and nobody runs this program to be reported on.
    """
    os.environ.update(SWITCHES)
