"""How a round learns: GRPO over TRL, cross-entropy, and the linear probe.

Imports strategies, evaluation, models, `adapter`, tasks, records and what lies below them.
"""
