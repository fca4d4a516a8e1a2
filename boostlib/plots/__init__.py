"""Pictures of runs, in one style: a file a section of the paper, and the figures that the notebooks show.

Imports analysis and what lies below it. Nothing here trains or evaluates.
"""
