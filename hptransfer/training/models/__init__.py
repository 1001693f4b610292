"""Models of the builtin trainer. One file each; the file's name is the model's."""
