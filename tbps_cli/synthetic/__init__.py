"""The synthetic pedestrians: drawn by us with Pillow and numpy, so that they carry no licence.

`build.build` writes a whole data set in the layout of CUHK-PEDES; `oracle.ceiling` says how well a
searcher could do that recognises every named attribute. From the bottom: `person` (who), `body`
(how they stand), `canvas` (paint and shade), `clothes`, `head`, `things`, `figure` (one person),
`scene` and `camera` (where, and through which lens), `captions` (what is said about it).
"""
