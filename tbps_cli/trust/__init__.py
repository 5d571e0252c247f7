"""How far an answer can be trusted: what a score is worth, who is surely among the hits, what each word found."""
