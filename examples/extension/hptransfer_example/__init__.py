"""Members of hptransfer's families in a package of its own."""
