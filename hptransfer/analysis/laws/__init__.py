"""Laws fitted to optima: forms, model averaging, exponents, the loss law."""
