"""Decoding beside a server that speaks OpenAI's protocol (vLLM, llama.cpp, …): `python -m benchmarks.server`.

The server must be up, on this machine, with the same model and as many threads. Both write the same number of
tokens for the same prompts, in turns; what the server is asked goes out at once, one request a row.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import torch

from benchmarks.measure import Spread, Work, race, ratios
from benchmarks.workload import load_workload
from seal.inner.decode import Decoder, Request
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.records import Sampling


async def _ask(base_url: str, model: str, prompts: Sequence[Sequence[int]], n: int) -> int:
    """Greedy tokens that the server wrote."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=600) as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(
                    model=model,
                    prompt=list(prompt),
                    max_tokens=n,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                for prompt in prompts
            )
        )
    return sum(a.usage.completion_tokens for a in answers if a.usage is not None)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--base-url", required=True, help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--served-model", required=True, help="the model's name on the server")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args(arguments)
    torch.set_num_threads(a.threads)
    loaded = load_model(a.model, "cpu", a.dtype)
    loop = LocalInnerLoop(loaded)
    prompts = load_workload(loaded.tokenizer).prompts(a.rows)
    requests = [Request(p, None, Sampling(temperature=0.0, max_new_tokens=a.tokens)) for p in prompts]
    own = loop._decoder
    decoder = Decoder(
        loop.runtime, own.detokenise, frozenset(), max_rows=own.max_rows, token_budget=own.token_budget
    )

    def server() -> float:
        wrote = asyncio.run(_ask(a.base_url, a.served_model, prompts, a.tokens))
        assert wrote == a.rows * a.tokens, f"the server wrote {wrote} tokens of {a.rows * a.tokens}"
        return wrote

    contenders: dict[str, Work] = {
        "seal": lambda: sum(len(w.ids) for w in decoder.run(requests)),
        "server": server,
    }
    for work in contenders.values():
        work()
    rates = race(contenders, a.repeats, loop.runtime.device)
    for name, values in rates.items():
        print(f"{name}: {Spread.of(values).median:,.0f} tokens/s")
    ratio = ratios(rates["seal"], rates["server"])
    print(f"seal / server: {ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}), {a.repeats} repetitions")


if __name__ == "__main__":
    main()
