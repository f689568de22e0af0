"""The slow, obvious reference: a discrete-event simulation of stages that hand frames on, by threads of events."""

from __future__ import annotations

import heapq
from collections import deque


class Line:
    """Stages in a row. A stage takes the first frame that waits before it, works, and hands it on when there is room.

    ``rooms[s]``: frames that may wait before stage ``s`` (beside the one it works on); None: any number.
    """

    def __init__(self, work: list[list[float]], rooms: list[int | None]) -> None:
        self.work = work
        self.rooms = rooms
        self.stages = len(rooms)
        self.waiting: list[deque[int]] = [deque() for _ in rooms]
        self.waiting[0].extend(range(len(work)))
        self.held: list[int | None] = [None] * self.stages  # finished, but there is no room for it
        self.working: list[int | None] = [None] * self.stages
        self.left = [[0.0] * self.stages for _ in work]
        self.events: list[tuple[float, int]] = []  # (time, stage that finishes)
        self.now = 0.0

    def run(self) -> list[list[float]]:
        self.settle()
        while self.events:
            self.now, stage = heapq.heappop(self.events)
            self.held[stage], self.working[stage] = self.working[stage], None
            self.settle()
        return self.left

    def settle(self) -> None:
        """Do all that can be done now, until nothing more can."""
        moved = True
        while moved:
            moved = False
            for stage in reversed(range(self.stages)):
                moved |= self.hand_on(stage) or self.start(stage)

    def start(self, stage: int) -> bool:
        if self.working[stage] is not None or self.held[stage] is not None or not self.waiting[stage]:
            return False
        frame = self.waiting[stage].popleft()
        self.working[stage] = frame
        heapq.heappush(self.events, (self.now + self.work[frame][stage], stage))
        return True

    def hand_on(self, stage: int) -> bool:
        frame = self.held[stage]
        if frame is None:
            return False
        if stage + 1 < self.stages:
            idle = self.working[stage + 1] is None and self.held[stage + 1] is None
            room = self.rooms[stage + 1]
            # An idle stage takes the frame at once: that needs no room.
            taken_at_once = idle and not self.waiting[stage + 1]
            if not taken_at_once and room is not None and len(self.waiting[stage + 1]) >= room:
                return False
            self.waiting[stage + 1].append(frame)
        self.left[frame][stage] = self.now
        self.held[stage] = None
        return True
