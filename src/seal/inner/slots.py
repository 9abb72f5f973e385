"""The slots that adapters train in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from seal.inner.adapter import SlotLayout
from seal.inner.runtime import Runtime
from seal.inner.stack import AdapterStack, Slot


class Slots:
    """The slots that adapters train in. A stack is made when no other has room, as large as needed then."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._stacks: list[AdapterStack] = []
        self._free: list[Slot] = []

    def take(self, layouts: Sequence[SlotLayout]) -> list[Slot]:
        """A slot for each adapter; none at all when memory runs out."""
        stacks, free = list(self._stacks), list(self._free)
        try:
            return self._take(layouts)
        except torch.OutOfMemoryError:
            self._stacks = [s for s in stacks if s in self._stacks]  # idle ones may be gone
            self._free = [p for p in free if p.stack in self._stacks]
            return []

    def _take(self, layouts: Sequence[SlotLayout]) -> list[Slot]:
        places: dict[int, Slot] = {}
        for i, layout in enumerate(layouts):
            place = next((p for p in self._free if p.stack.layout is layout), None)
            if place is not None:
                places[i] = place
                self._free.remove(place)
        homeless = [i for i in range(len(layouts)) if i not in places]
        if homeless:
            self._drop_idle()
        for layout in dict.fromkeys(layouts[i] for i in homeless):
            own = [i for i in homeless if layouts[i] is layout]
            stack = AdapterStack(self.runtime, layout, len(own), training=True)
            self._stacks.append(stack)
            places |= {i: Slot(stack, slot) for slot, i in enumerate(own)}
        return [places[i] for i in range(len(layouts))]

    def give(self, places: Iterable[Slot]) -> None:
        """Take slots back; the lowest are taken first again."""
        self._free = sorted([*self._free, *places], key=self.order)

    def order(self, place: Slot) -> tuple[int, int]:
        """Where a slot's rows stand in a pass."""
        return self._stacks.index(place.stack), place.slot

    def _drop_idle(self) -> None:
        idle = [s for s in self._stacks if sum(p.stack is s for p in self._free) == len(s.scales)]
        self._stacks = [s for s in self._stacks if s not in idle]
        self._free = [p for p in self._free if p.stack not in idle]
