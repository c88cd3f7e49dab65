"""One line of what a check of a machine found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was checked: what, the answer (`ok`, `absent`, `busy`, `left out`, `wrong`), and the detail."""

    what: str
    answer: str
    detail: str

    @property
    def failed(self) -> bool:
        """Whether this makes results wrong or impossible."""
        return self.answer == "wrong"
