"""`hat split`: one checkpoint into a device bundle and a cloud bundle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import is_bundle_pair
from hat.errors import CommandError, need_unix
from hat.invocation import command_line
from hat.splitting import SplitRequest, model_path, split_model

if TYPE_CHECKING:
    from submodels.manifest import Manifest
    from submodels.split import SplitResult

_EPILOG = """
\b
Examples:
  hat split models/stories260k --out stories
  hat split meta-llama/Llama-3.1-8B-Instruct --output-layers 1 --out llama-8b
  hat split SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  hat split owner/repository:Q4_K_M --dtype bfloat16 --out model
  hat split SmolLM2-135M-Instruct --wire-rotation --dtype bfloat16 --out rotated
  hat split my-lora --base meta-llama/Llama-3.1-8B-Instruct --out my-llama
  hat split my-finetune --middle-of llama-8b --out my-ends

Left out, --input-layers is 1 for models of up to 8 layers, 2 up to 36, and 3 beyond; 0 for models
with experts, which no ONNX file has. More layers on the device make what travels harder to read,
and the device slower; without any, embeddings travel, and public weights tell each token.

With --wire-rotation, --dtype keep is float32: a narrower format rounds every weight once more. A
head that is tied to the embedding becomes a matrix of its own.
"""

_WEIGHTS = ("float32", "int8", "int4")

_MOST_NAMED = 20
"""Tensors that a refused middle names; a fine-tune of all layers has hundreds that differ."""


class WeightsList(click.ParamType[tuple[str, ...]]):
    """Names of weights formats, with commas between."""

    name = "weights"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(value.split(","))
        unknown = [name for name in names if name not in _WEIGHTS]
        if names in (("none",), ()):
            return ()
        if unknown:
            self.fail(f"expected none or some of {','.join(_WEIGHTS)}, got {value!r}", param, ctx)
        return tuple(name for name in _WEIGHTS if name in names)


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option("--out", required=True, metavar="DIR", help="Folder to write; device/ and cloud/.")
@click.option(
    "--input-layers",
    type=click.IntRange(min=0),
    metavar="M",
    help="First decoder layers, on the device; 0: the embedding only.",
)
@click.option(
    "--output-layers",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Last decoder layers, on the device.  [default: 0]",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "float32", "float16", "bfloat16"]),
    default="keep",
    help="Precision of all parts; keep: what the model's files say.  [default: keep]",
)
@click.option(
    "--onnx-weights",
    type=WeightsList(),
    default="float32",
    metavar="LIST",
    help="ONNX parts to make for the device: float32, int8, int4, or none.  [default: float32]",
)
@click.option(
    "--wire-rotation",
    is_flag=True,
    help="Rotate the hidden states, for codecs that round them (docs/codecs.md). No defence: who "
    "has the public weights undoes it. Adapters have to be trained for such a split.",
)
@click.option(
    "--base",
    metavar="MODEL",
    help="Of an adapter of PEFT: the model to merge it into.  [default: the one that it names]",
)
@click.option(
    "--middle-of",
    metavar="BUNDLE",
    help="Bundles whose middle layers MODEL has, too: writes a device bundle for their cloud, or "
    "says which tensors differ.",
)
@click.option(
    "--keep-quantisation",
    is_flag=True,
    help="Leave the cloud's layers as fp8, AWQ, GPTQ or compressed-tensors has them, for hat cloud "
    "--engine vllm alone.",
)
@click.option(
    "--long-context",
    is_flag=True,
    help="Of a model with LongRoPE: its frequencies for texts beyond the original length, for all "
    "texts. Left out: those for texts within it, and the context ends there.",
)
@click.option("--force", is_flag=True, help="Replace bundles that DIR already holds.")
def split(model: str, out: str, force: bool, **parameters: Any) -> None:
    """Split a checkpoint into a device and a cloud bundle.

    MODEL is a Hugging Face checkpoint folder, a GGUF file, or a hub id; owner/repository:Q4_K_M and
    owner/repository/FILE.gguf are GGUF files of a hub. A LoRA adapter of PEFT is merged into its
    base, and what other tools have quantised is dequantised. Tensors are copied one by one, so that
    a model need not fit in memory.
    """
    need_unix()
    request = SplitRequest(
        parameters["input_layers"],
        parameters["output_layers"],
        parameters["dtype"],
        parameters["onnx_weights"],
        parameters["wire_rotation"],
        parameters["base"],
        None if parameters["middle_of"] is None else Path(parameters["middle_of"]).expanduser(),
        parameters["keep_quantisation"],
        parameters["long_context"],
    )
    if not force and is_bundle_pair(Path(out)):
        raise CommandError(f"{out} holds bundles already; --force replaces them")
    with _details_told():
        result = split_model(model, model_path(model), Path(out), request, overwrite=force)
    click.echo(_summary(result))


@contextmanager
def _details_told() -> Iterator[None]:
    """Tensors that are not those of another middle are listed before the line that counts them."""
    from submodels.errors import OtherMiddleError

    try:
        yield
    except OtherMiddleError as error:
        for detail in error.details[:_MOST_NAMED]:
            click.echo(f"differs: {detail}")
        if len(error.details) > _MOST_NAMED:
            click.echo(f"and {len(error.details) - _MOST_NAMED} more")
        raise


def _summary(result: "SplitResult") -> str:
    device, cloud = result.device, result.cloud
    parts = f"{device.num_input_layers} input, {device.num_middle_layers} middle and "
    parts += f"{device.num_output_layers} output layers, {device.dtype}"
    parts += f", dequantised from {result.quantised_by}" if result.quantised_by else ""
    parts += " on the device only" if cloud.kept_quantisation is not None else ""
    parts += ", rotated" if device.wire_rotation is not None else ""
    onnx = f"; ONNX {', '.join(device.onnx_weights)}" if device.onnx_weights else ""
    last = device.num_input_layers + device.num_middle_layers - 1
    device_folder, cloud_folder = result.out / "device", result.out / "cloud"
    if result.middle is not None:
        return _summary_of_ends(result)
    width = max(len(str(device_folder)), len(str(cloud_folder)))
    lines = [
        f"Split {device.model_name}: {parts}.",
        f"  {device_folder!s:{width}}  {_size(device)}  tokenizer, embedding, head{onnx}",
        f"  {cloud_folder!s:{width}}  {_size(cloud)}  layers {cloud.num_input_layers} to {last}",
        *_left_out(result.left_out),
        *_notes(device),
        "",
        "Next, each in its own terminal (on two machines, give the cloud --host 0.0.0.0 and",
        "--tls-self-signed: it prints what the device is given):",
        "  " + command_line("cloud", cloud_folder, *_cloud_flags(cloud)),
        "  " + command_line("device", device_folder, *_engine_flags(device)),
    ]
    return "\n".join(lines)


def _summary_of_ends(result: "SplitResult") -> str:
    device, folder, middle = result.device, result.out / "device", result.middle
    assert middle is not None, "a middle was there before"
    num_tensors, where = len(middle.formats), middle.path
    onnx = f"; ONNX {', '.join(device.onnx_weights)}" if device.onnx_weights else ""
    lines = [
        f"Split {device.model_name}: its {device.num_middle_layers} middle layers are those of "
        f"{where}, all {num_tensors} tensors.",
        f"  {folder!s}  {_size(device)}  tokenizer, embedding, head{onnx}",
        *_left_out(result.left_out),
        *_notes(device),
        "",
        "Next (a cloud with that middle serves it, beside devices with other ends):",
        "  " + command_line("device", folder, *_engine_flags(device)),
    ]
    return "\n".join(lines)


def _cloud_flags(cloud: "Manifest") -> tuple[str, ...]:
    return () if cloud.kept_quantisation is None else ("--engine", "vllm")


def _notes(device: "Manifest") -> Iterator[str]:
    """What somebody should know who did not ask for it."""
    if any(name.startswith("short_factor.") for name in device.rope_parameters):
        yield f"Its LongRoPE changes at {device.shape.max_context_tokens:,} tokens, where the"
        yield "context ends; --long-context takes the frequencies for longer texts instead."
    if device.num_input_layers:
        return
    if device.shape.described.experts is not None:
        yield "Its layers have experts, which no ONNX file has: they are left to the cloud. With"
        yield "--input-layers N --onnx-weights none the device runs its own on torch."
    yield "No layer is on the device, so embeddings go up: with public weights the cloud can look"
    yield "up each token. --input-layers makes that harder."


def _left_out(names: Sequence[str]) -> Iterator[str]:
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        yield f"Left out are tensors that are of no layer of the model ({len(names)}): {listed}"


def _engine_flags(device: "Manifest") -> tuple[str, ...]:
    """What a device needs beyond its defaults to run this bundle."""
    if not device.onnx_weights:
        return ("--engine", "torch")
    return () if "float32" in device.onnx_weights else ("--weights", device.onnx_weights[0])


def _size(manifest: "Manifest") -> str:
    num_bytes = float(sum(file.num_bytes for file in manifest.files.values()))
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:6.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:6.1f} GB"
