"""Connected to a Ray cluster: one that this process starts for itself on loopback, or one by address."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from seal.cluster.actors import one_reason
from seal.errors import ConfigError
from seal.extras import need

log = logging.getLogger(__name__)

NAMESPACE = "seal"
#: The object store of a cluster of our own: policies are loaded from the disk, and messages are small.
STORE_BYTES = 100 * 2**20


class Session:
    """A connection, until `close` or the end of the process, which also end the actors named after `mine`.

    Args:
        address: host:port; None: start a cluster on this machine, which ends with the connection.
        cpus: of a cluster of our own; None: as many as there are.
        mine: what names of this run's actors begin with.

    Raises:
        MissingExtra: ray is not installed.
        ConfigError: there is no such cluster.
    """

    def __init__(self, address: str | None, cpus: int | None, mine: str) -> None:
        self.ray: Any = _import_ray(address is None)
        self._mine, self._temporary = mine, ""
        self._connected = not self.ray.is_initialized()  # otherwise it is the caller's
        if self._connected:
            self._connect(address, cpus)
        atexit.register(self.close)

    def actors(self) -> list[str]:
        """Names of the run's actors that are alive, sorted."""
        return sorted(n for n in self.ray.util.list_named_actors() if n.startswith(self._mine))

    def leaving(self) -> frozenset[str]:
        """Ids of nodes that are being drained: by `ray drain-node`, an autoscaler, or as they are ended."""
        return frozenset(self.ray._private.state.state.get_draining_nodes())

    def kill(self, names: Iterable[str]) -> None:
        """End actors."""
        for name in names:
            try:
                self.ray.kill(self.ray.get_actor(name))
            except ValueError:
                log.debug("%s has just ended", name)

    def close(self) -> None:
        """End the run's actors, and the cluster if it is our own."""
        atexit.unregister(self.close)
        if self.ray.is_initialized():
            try:
                self.kill(self.actors())
            except (self.ray.exceptions.RayError, OSError) as error:
                log.warning("the cluster went away: %s", one_reason(error))
            if self._connected:
                self.ray.shutdown()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _connect(self, address: str | None, cpus: int | None) -> None:
        options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
        if address is None:
            self._temporary = tempfile.mkdtemp(prefix="seal-ray-", dir="/tmp")  # its sockets need short names
            options |= {
                "address": "local",
                "num_cpus": cpus,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": self._temporary,
            }
        else:
            _use_token(address)
            options["address"] = address
        try:
            self.ray.init(**options)
        except (OSError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            if self._temporary:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise ConfigError(
                f"no Ray cluster at {address or 'this machine'}: {one_reason(error)}",
                "start one with `ray start --head`, or correct inner.ray_address",
            ) from None


def _import_ray(own: bool) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if own:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # everything listens on loopback alone
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray leaves one in the home folder
    ray = need("ray", "a Ray cluster")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    if own:
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = (
            False  # where ray was imported before it could be told
        )
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _use_token(address: str) -> None:
    """Ray looks for a token only where it is told to."""
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH") or "", Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or any(place and Path(place).is_file() for place in places):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif not _loopback(address) and os.environ.get("RAY_AUTH_MODE") != "token":
        log.warning(
            "the Ray cluster at %s is used without a token: whoever reaches it can run code there", address
        )


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")
