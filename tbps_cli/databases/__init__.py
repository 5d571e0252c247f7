"""Galleries in databases: the rows of an index where several machines can reach them."""
