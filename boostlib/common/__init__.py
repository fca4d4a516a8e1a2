"""What everything stands on: errors, stable randomness and hashes, durable files, several processes, and
which weights of a model are adapted.

Imports nothing of boostlib.
"""
