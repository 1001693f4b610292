"""Data of the builtin trainer. One file each; the file's name is the dataset's."""
