"""The middle of every described family on vLLM: what the split model says, through a real socket.

`make test-vllm` runs it; `python -m tests.support.family_matrix --vllm` shows the same as a table.
"""

from pathlib import Path

import pytest

from tests.support.family_matrix import MAX_LOGPROB_ERROR, check_model, vllm_cases_of
from tests.support.vllm_engines import has_vllm
from tests.support.vllm_family_models import VLLM_MODELS

pytestmark = [
    pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("name", VLLM_MODELS)
def test_a_familys_middle_on_vllm_says_what_transformers_says(name: str, tmp_path: Path) -> None:
    model = VLLM_MODELS[name]
    for finding in check_model(model, tmp_path, vllm_cases_of(model)):
        assert finding.num_different == 0, finding
        assert finding.worst_logprob_error < MAX_LOGPROB_ERROR, finding
