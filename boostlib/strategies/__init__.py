"""What the paper fixes and a user may choose otherwise: which adapter a round gets, whom it trains on, how a pass is
evaluated, and whether a round is merged.

Imports evaluation, models, `adapter`, tasks, records and what lies below them. The loop knows these choices by their
protocols (choices.py) alone.
"""
