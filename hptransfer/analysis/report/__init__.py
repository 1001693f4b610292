"""Report of an analysis: page, figures, comparison, exports, target groups."""
