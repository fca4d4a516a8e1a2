"""Who gets it right: decode (here or with vLLM) or classify, score with the task's own scorer, and the metrics of that.

Imports models, tasks, records and `common`; knows of no run and of no training.
"""
