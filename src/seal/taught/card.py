"""The model card of an exported model: what it was taught, how, and what it scored."""

from __future__ import annotations

from seal.taught.manifest import Manifest
from seal.taught.measure import table
from seal.wording import counted

_USE = {
    "peft": """
```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("THIS FOLDER")
```

`adapter_config.json` names the base. Where that is a folder, it is the one called `base` in here: correct the
path when you move it.
""",
    "merged": """
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```
""",
    "gguf": "\nLoad the `.gguf` file with llama.cpp: `llama-cli -m FILE`.\n",
    "ollama": "\n`ollama create my-model -f Modelfile`, then `ollama run my-model`.\n",
}


def card(name: str, base: str, to: str, manifest: Manifest | None) -> str:
    """A README.md with the front matter that the Hugging Face hub reads."""
    library = "peft" if to == "peft" else "transformers" if to == "merged" else "gguf"
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags: [seal, self-adapting, lora]",
        "---",
        "",
        f"# {name}",
        "",
        f"Base: `{base}`" + (f" (version `{manifest.base_version}`)." if manifest else "."),
    ]
    if manifest is not None:
        lines += _taught(manifest)
    return "\n".join([*lines, "", "## Use", _USE[to]])


def _taught(manifest: Manifest) -> list[str]:
    settings = ", ".join(f"{key} {value}" for key, value in manifest.training.items())
    lines = ["", "## What it was taught", ""]
    for batch in manifest.batches:
        documents = ", ".join(f"`{document}`" for document in batch.documents)
        lines.append(
            f"- Batch {batch.number}: {counted(batch.passages, 'passage')} of {documents}; "
            f"{counted(batch.texts, 'training text')}, {counted(batch.updates, 'optimiser step')}."
        )
    lines += ["", "Gaps in the passages' sentences were asked for, beside the passages themselves.", ""]
    lines += [f"LoRA: {settings}.", "", "Ask it in this form:", "", "```", manifest.question_prompt, "```"]
    if manifest.batches and manifest.batches[-1].scores:
        lines += ["", "## Scores", "", "On questions that were not trained on:", "", "```"]
        lines += [table(manifest.batches[-1].scores), "```"]
    return lines
