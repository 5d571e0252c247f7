"""Which images may be hits: a filter as text, as a syntax tree, and as a mask over columns of a gallery."""
