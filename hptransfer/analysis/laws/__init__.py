"""Laws: forms in which the optimum may move with scale. One file each."""
