"""The oracle of closed sessions: lists of events, scanned for each event that comes. Shares no code with the engine."""

from udfs.open_sessions import ClosedSession


class NaiveSessions:
    """The sessions of one shard's entities.

    Args:
        gap_ms: The longest pause within one.
        lateness_ms: How much longer it stays open.
    """

    def __init__(self, gap_ms, lateness_ms=0):
        self.gap_ms, self.hold_ms = gap_ms, gap_ms + lateness_ms
        self.clocks, self.open = {}, []

    def advance(self, entity, time_ms, record_time_ms, partition):
        """The sessions that an event closes, in order."""
        clock = self.clocks[partition] = max(self.clocks.get(partition, 0), min(time_ms, record_time_ms))
        over = [
            each for each in self.open
            if each[-1][2] == partition and max(t for _, t, _ in each) + self.hold_ms < clock
        ]  # fmt: skip
        self.open = [each for each in self.open if each not in over]
        over.sort(key=lambda each: (max(t for _, t, _ in each), each[0][0]))
        event = (entity, time_ms, partition)
        joined = [
            each for each in self.open
            if each[0][0] == entity
            and min(t for _, t, _ in each) - self.gap_ms <= time_ms <= max(t for _, t, _ in each) + self.gap_ms
        ]  # fmt: skip
        closed = [_closed(each, False) for each in over]
        if not joined and time_ms + self.hold_ms < clock:
            return [*closed, _closed([event], True)]
        self.open = [each for each in self.open if each not in joined]
        session = [*(one for each in joined for one in each), event]
        if max(t for _, t, _ in session) + self.hold_ms < clock:  # of another partition until now
            return [*closed, _closed(session, False)]
        self.open.append(session)
        return closed

    def still_open(self):
        """Those that no event has closed yet."""
        return [_closed(each, False) for each in self.open]


def _closed(events, is_late):
    times = [time for _, time, _ in events]
    return ClosedSession(events[0][0], None, events[-1][2], min(times), max(times), len(events), is_late)
