"""Serve a taught model with OpenAI's API and a page to ask on, or any model through vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _options


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """A vLLM server, which ends with this command."""

    python: Annotated[str, Option(help="Interpreter that has vLLM; default: this one.")] = ""
    max_lora_rank: Annotated[int, Option(min=1, help="Largest rank of an adapter.")] = 128
    engine_argument: Annotated[
        list[str] | None, Option(help="A further argument of vLLM's; as often as needed.")
    ] = None

    def serve(self, model: str, host: str, port: int, key: str, dtype: str) -> None:
        """Serve `model` under its own name until Ctrl-C or SIGTERM. Raises `SealError`."""
        import signal

        from seal.errors import ServeError
        from seal.models.vllm_server import Served, VLLMServer, room

        server = VLLMServer(self.python, self.engine_argument or (), host=host, port=port, key=key)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.start(Served(model, model, room(self.max_lora_rank), dtype))
            print(f"{server.url}  (model {model})", flush=True)
            status = server.wait()
        except KeyboardInterrupt:
            return
        finally:
            server.stop()
        raise ServeError(f"vLLM ended with status {status}", "see its messages above")


@_options.grouped
def serve_model(
    *,
    model: Annotated[
        Path,
        Argument(help="A taught model; for vLLM a hub id, folder, .gguf file or built-in name."),
    ],
    host: Annotated[str, Option(help="Address to listen on; others than loopback need a key.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 picks a free one.")] = 8765,
    api_key_env: Annotated[str, Option(help="Variable that holds the key that clients must send.")] = "",
    place: _options.DeviceOptions,
    engine: Annotated[str, Option(help="seal; vllm: for generation.base_url and follow.")] = "seal",
    vllm: VLLMOptions,
    log_level: _options.LogLevel = "WARNING",
) -> None:
    """Models are called as the folder (each question to the adapter that knows), untaught, or as adapters."""
    from seal.errors import ConfigError
    from seal.extras import need
    from seal.run import log

    log.set_up(log_level.upper())
    if engine not in ("seal", "vllm"):
        raise ConfigError(f"--engine is {engine!r}", "choose seal or vllm")
    key, loopback = _access(host, api_key_env)
    if engine == "vllm":
        vllm.serve(str(model), host, port, key, place.dtype)
        return
    for module in ("starlette", "uvicorn"):
        need(module, "serving a model")
    from seal.taught.model import TaughtModel
    from seal.taught.serving.app import make_app
    from seal.taught.serving.run import serve

    serve(make_app(TaughtModel(model, place.device, place.dtype), key, loopback=loopback), host, port)


def _access(host: str, api_key_env: str) -> tuple[str, bool]:
    """The key that clients must send, empty for none, and whether only this machine's can reach `host`."""
    import ipaddress

    from seal import keys
    from seal.errors import ConfigError

    key = keys.key(api_key_env)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--host is {host!r}", "give an IP address or localhost") from None
    if not loopback and not key:
        raise ConfigError(f"--host {host} lets others in without a key", "give --api-key-env VARIABLE")
    return key, loopback
