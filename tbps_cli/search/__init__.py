"""Search: folders, indexes and data sets as galleries, and the pictures in them that fit a description."""
