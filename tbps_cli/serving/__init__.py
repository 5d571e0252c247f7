"""`tbps serve`: the searches of the command line as an HTTP API, and a page to search with."""
