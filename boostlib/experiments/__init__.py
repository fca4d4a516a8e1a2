"""The paper's experiments: presets, methods and baselines, the notebooks' runner, and what a machine can do.

Imports everything but bench.
"""
