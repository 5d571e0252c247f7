"""The parts of `scripts/campaign`: many runs of tbps under conditions that nobody wishes for, and what came of each.

`trials` says what a trial is and remembers those that are done; `children` forks the runs of tbps; `workshop` makes
what they work on. Each of `kills`, `inputs`, `hostile`, `damage`, `disk` and `clock` lists its trials; `page` writes
the table of docs/reliability.md.
"""
