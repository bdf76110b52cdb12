"""Makes `packed.safetensors` beside it with bitsandbytes: seeded matrices, packed and unpacked.

Run: python tests/data/bitsandbytes/make.py, where bitsandbytes is installed (0.50.2 was).

A tensor's name is what was packed, a slash, and the end of its name in a checkpoint; `unpacked` is
what bitsandbytes makes of it again. Rows hold whole blocks of 64: of others the kernels for CPUs
lose count.
"""

from pathlib import Path

import torch
from bitsandbytes import functional
from safetensors.torch import save_file

HERE = Path(__file__).parent


def make() -> None:
    """Write the file."""
    generator = torch.Generator().manual_seed(6)
    stored: dict[str, torch.Tensor] = {}
    for name in ("nf4", "fp4"):
        for is_nested in (True, False):
            # Of nested scales, two blocks of 256.
            num_rows = 136 if is_nested else 24
            weight = torch.randn(num_rows, 128, generator=generator).bfloat16()
            packed, state = functional.quantize_4bit(
                weight, blocksize=64, compress_statistics=is_nested, quant_type=name
            )
            parts = {f".weight.{k}": v for k, v in state.as_dict(packed=True).items()}
            unpacked = functional.dequantize_4bit(packed, state)
            what = f"{name}, nested" if is_nested else name
            held = {**parts, ".weight": packed, "unpacked": unpacked}
            stored |= {f"{what}/{end}": tensor for end, tensor in held.items()}
    weight = torch.randn(24, 96, generator=generator).half()
    codes, largest, _ = functional.int8_vectorwise_quant(weight)
    unpacked = functional.int8_vectorwise_dequant(codes, largest).bfloat16()
    held = {".weight": codes, ".SCB": largest, "unpacked": unpacked}
    stored |= {f"int8/{end}": tensor for end, tensor in held.items()}
    save_file({k: v.contiguous() for k, v in stored.items()}, HERE / "packed.safetensors")


if __name__ == "__main__":
    make()
