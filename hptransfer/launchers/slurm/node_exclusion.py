"""Exclusion of nodes on which jobs fail fast.

One bad node would otherwise receive job after job, until all their attempts are spent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class NodeExclusion:
    """Set of nodes that later submissions avoid.

    A node is bad only in comparison with others: if jobs fail on all nodes, the cause is the jobs or their setup.

    Attributes:
        fast_s: a failure within this many seconds of the start is fast.
        after: number of consecutive fast failures, of different jobs, for which a node is excluded.
        at_most: largest number of excluded nodes.
        excluded: the reason for each excluded node.
    """

    fast_s: float
    after: int
    at_most: int
    excluded: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _good: set[str] = field(default_factory=set)
    _details: dict[str, str] = field(default_factory=dict)

    def record_success(self, node: str) -> None:
        """Record a success: a good end, or a long run time."""
        if node:
            self._good.add(node)
            self._failures.pop(node, None)
            self._exclude_bad_nodes()

    def record_failure(self, node: str, seconds: float, detail: str) -> None:
        """Record a job whose process failed on the node."""
        if not node or seconds > self.fast_s:
            return
        self._failures[node] += 1
        self._good.discard(node)
        self._details[node] = detail
        self._exclude_bad_nodes()

    def _exclude_bad_nodes(self) -> None:
        for node, count in self._failures.items():
            bad = count >= self.after and node not in self.excluded and bool(self._good - {node})
            if bad and len(self.excluded) < self.at_most:
                self.excluded[node] = (
                    f"{count} jobs in a row failed there within {self.fast_s:.0f} s while others worked elsewhere, "
                    f"the last: {self._details[node]}"
                )
