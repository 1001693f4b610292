"""Planning: a sweep file becomes scales, points, trials and their cost."""
