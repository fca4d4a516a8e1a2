"""What the paper fixes and a user may choose otherwise: which adapter a round gets (the next block, the one that
gradients favour, or a LoRA), whom it trains on, how a pass is evaluated, and whether a round is merged.

Imports evaluation, models, `adapter`, tasks, records and what lies below them. The loop knows these choices by their
protocols (choices.py) alone.
"""
