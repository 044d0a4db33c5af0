"""Limits as one would write them without a thought for cost: every request remembered for ever."""

from __future__ import annotations

from dataclasses import dataclass, field

DAY_S = 86400


@dataclass(eq=False)
class Noted:
    """One admitted request and what it is charged."""

    second: int
    requests: int
    tokens: int
    day: int
    open: bool = True


@dataclass
class Reference:
    """The slow twin of an account; a charge counts while its second is one of the last 61."""

    notes: list[Noted] = field(default_factory=list)
    charges: list[tuple[int, int]] = field(default_factory=list)
    by_day: dict[int, int] = field(default_factory=dict)
    in_all: int = 0
    latest_day: int = 0

    def of_minute(self, second: int) -> tuple[int, int]:
        recent = [note for note in self.notes if second - note.second <= 60]
        later = [tokens for at, tokens in self.charges if second - at <= 60]
        return sum(n.requests for n in recent), sum(n.tokens for n in recent) + sum(later)

    def flying(self) -> int:
        return sum(note.open for note in self.notes)

    def today(self, wall: float) -> int:
        self.latest_day = max(self.latest_day, int(wall) // DAY_S)
        return self.latest_day

    def reserve(
        self, limits: dict[str, int], tokens: int, clock: float, wall: float
    ) -> Noted | None:
        second, day = int(clock), self.today(wall)
        requests, used = self.of_minute(second)
        asked = {
            "rpm": requests + 1,
            "tpm": used + tokens,
            "concurrency": self.flying() + 1,
            "daily_tokens": self.by_day.get(day, 0) + tokens,
            "total_tokens": self.in_all + tokens,
        }
        if any(asked[name] > limit for name, limit in limits.items()):
            return None
        note = Noted(second, 1, tokens, day)
        self.notes.append(note)
        self.by_day[day] = self.by_day.get(day, 0) + tokens
        self.in_all += tokens
        return note

    def settle(self, note: Noted, used: int, clock: float, wall: float) -> None:
        if not note.open:
            return
        note.open = False
        change = used - note.tokens
        self.in_all += change
        if change > 0:
            day = self.today(wall)
            self.charges.append((int(clock), change))
            self.by_day[day] = self.by_day.get(day, 0) + change
        else:
            note.tokens = used
            if note.day == self.latest_day:
                self.by_day[note.day] += change
