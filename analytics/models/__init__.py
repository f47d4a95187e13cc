"""
Models with versions: what is fitted is kept as numbers, compared with what is in use, and put in use within a budget.

`versions` keeps, promotes and rolls back; `files` is the format; `trees` turns a fitted ensemble into arrays and
predicts from them; `comparison` says what a change of model costs those who rely on its verdicts.
"""
