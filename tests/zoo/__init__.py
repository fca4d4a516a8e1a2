"""One tiny model of every kind, and the same checks for each: right, or refused with a reason."""

from zoo import encoders, language, odd  # noqa: F401  (each adds its kinds)
