"""What a question means: cameras, times and counts, what is not there, misspelt words, other languages."""
