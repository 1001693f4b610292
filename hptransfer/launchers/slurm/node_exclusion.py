"""Nodes on which jobs fail fast: one bad node takes job after job, and would use up all their attempts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class NodeExclusion:
    """Which nodes later submissions stay away from.

    A node is bad only next to others: where all fail, the jobs are at fault, or what is set up for them.

    Attributes:
        fast_s: a failure that comes within so many seconds of the start is fast.
        after: fast failures in a row, of different jobs, that a node is excluded for.
        at_most: nodes excluded at a time.
        excluded: nodes that are, and why.
    """

    fast_s: float
    after: int
    at_most: int
    excluded: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _good: set[str] = field(default_factory=set)
    _details: dict[str, str] = field(default_factory=dict)

    def worked(self, node: str) -> None:
        """A job came to its end there, or ran for longer than a fast failure takes."""
        if node:
            self._good.add(node)
            self._failures.pop(node, None)
            self._judge()

    def failed(self, node: str, seconds: float, detail: str) -> None:
        """A job's process ended there before the job did."""
        if not node or seconds > self.fast_s:
            return
        self._failures[node] += 1
        self._good.discard(node)
        self._details[node] = detail
        self._judge()

    def _judge(self) -> None:
        for node, count in self._failures.items():
            bad = count >= self.after and node not in self.excluded and bool(self._good - {node})
            if bad and len(self.excluded) < self.at_most:
                self.excluded[node] = (
                    f"{count} jobs in a row failed there within {self.fast_s:.0f} s while others worked elsewhere, "
                    f"the last: {self._details[node]}"
                )
