"""Search: folders, indexes and data sets as galleries, and the images in them that fit a description."""
