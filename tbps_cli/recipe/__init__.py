"""Recipes: whole experiments as TOML, read strictly, resolved with reasons and saved with the run."""
