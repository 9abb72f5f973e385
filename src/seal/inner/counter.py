"""Random numbers that are hashes of a key and a counter: the same on every device, in whatever order.

Nothing is drawn in sequence, so it does not matter where or beside what else a number is computed.
"""

from __future__ import annotations

from torch import Tensor

#: The golden ratio's 32 bits, which spread counters, and the multipliers of Wellons' `lowbias32`, a mix of
#: low bias (https://github.com/skeeto/hash-prospector).
_SPREAD, _FIRST, _SECOND = 0x9E3779B1, 0x7FEB352D, 0x846CA68B


def signed(bits: int) -> int:
    """The last 32 bits as a signed number."""
    return (bits + 2**31) % 2**32 - 2**31


def mixed(counters: Tensor, keys: Tensor) -> Tensor:
    """A hash of every counter with its key (broadcast), both int32: evenly spread over all int32."""
    x = counters * signed(_SPREAD)
    x.bitwise_xor_(keys)
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))  # lowbias32; a signed shift drags the sign along
    x.mul_(_FIRST)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x.mul_(signed(_SECOND))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def uniform(counters: Tensor, keys: Tensor) -> Tensor:
    """A number in [0, 1), fp32, for every counter with its key."""
    return (mixed(counters, keys) >> 8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)
