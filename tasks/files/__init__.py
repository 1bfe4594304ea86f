"""Data sets on disk in the formats in which they are published: one module per format, read with nothing trusted."""
