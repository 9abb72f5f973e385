"""Take a taught model with you: a PEFT folder, merged safetensors, GGUF, or Ollama's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def export(
    model: Annotated[str, Argument(help="A taught model, an adapter's folder, or any model.")],
    to: Annotated[str, Option(help="peft, merged, gguf or ollama.")],
    out: Annotated[Path, Option(help="New folder.")],
    adapter: Annotated[str, Option(help="Which adapter, where the model has several.")] = "",
    quantization: Annotated[str, Option(help="Of a GGUF file: f16 or q8_0.")] = "f16",
    dtype: Annotated[
        str, Option(help="Of merged weights: float32 (exact) or bfloat16 (half the size).")
    ] = "float32",
) -> None:
    """Write a new folder with a model card; one that exists is never overwritten."""
    from seal.taught.export import export as write

    print(write(model, to, out, adapter=adapter, quantization=quantization, dtype=dtype))
