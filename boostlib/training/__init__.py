"""How a round learns: GRPO over TRL, cross-entropy, the linear probe, and PEFT's LoRA as a learner.

Imports strategies, evaluation, models, `adapter`, tasks, records and what lies below them.
"""
