"""From runs to the optimum of every scale: run selection, response surface, estimators."""
