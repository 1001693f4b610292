"""From predictions to the page: HTML, figures, comparison, exports, target groups."""
