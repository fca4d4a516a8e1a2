"""What everything stands on: errors, stable randomness and hashes, durable files, several processes.

Imports nothing of boostlib.
"""
