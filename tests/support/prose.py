"""Rules of plain language, for source files and pages alike."""

from __future__ import annotations

import re

# Ways of speaking that no engineer of the field has; in docstrings, comments and messages alike.
FOREIGN = re.compile(
    r"\bso (many|much)\b|(?<!there )\bis no\b(?! (longer|more)\b)|\b(any|no|some)body\b|\bno such\b|"
    r"\b(takes?|taken|took) (up|back)\b|\bgo(es)? by\b|\bstands? beside\b|\bhangs? on\b|"
    r"\b(begins?|begun|starts?) anew\b"
)
