"""Memory that training frees stays with the process, so that the next pass does not fault it in again."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# glibc's mallopt numbers (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks instead of returning them to the system; True where that worked.

    A packed pass allocates and frees hundreds of megabytes of activations. Returned to the system, each
    page is cleared again on its next use, which took a fifth of a pass's time on two cores. Blocks of
    32 MB and more (an adapter's buffers) still go back: they live long and would fragment the rest.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library, which has no such option
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in settings)
