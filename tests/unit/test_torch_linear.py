"""Packed weights give what plain ones give, and a machine without them is told apart."""

import pytest
import torch
import torch.nn.functional as F

from cloud_server.engines.torch import linear as torch_linear
from cloud_server.engines.torch.linear import make_linear, why_not_packed

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 5, 130])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_layer_equals_a_plain_one(dtype, num_rows, has_bias):
    if why_not_packed(CPU, dtype) is not None:
        pytest.skip(f"this machine does not pack {dtype}")
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(512, 320, generator=generator).to(dtype)
    bias = torch.randn(512, generator=generator).to(dtype) if has_bias else None
    rows = torch.randn(num_rows, 320, generator=generator).to(dtype)
    packed = make_linear(weight, bias, packed=True)(rows)
    expected = F.linear(rows, weight, bias)
    tolerance = 1e-4 if dtype is torch.float32 else 0.5
    torch.testing.assert_close(packed, expected, rtol=1e-2, atol=tolerance)


def test_a_machine_whose_packing_raises_says_so(monkeypatch):
    def refuse(weight, bias):
        raise RuntimeError("no such instruction\nstack")

    monkeypatch.setattr(torch_linear, "_packed", refuse)
    assert why_not_packed(CPU, torch.float32) == "oneDNN refused: no such instruction"


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_a_machine_whose_packing_is_wrong_says_so(monkeypatch, wrong):
    monkeypatch.setattr(
        torch_linear, "_packed", lambda weight, bias: lambda rows: rows @ weight.T + bias + wrong
    )
    reason = why_not_packed(CPU, torch.float32)
    assert reason is not None
    assert "differ" in reason


def test_only_a_cpu_packs():
    assert why_not_packed(torch.device("meta"), torch.float32) is not None
