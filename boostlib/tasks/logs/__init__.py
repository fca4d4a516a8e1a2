"""The logs that people have, each form by its own small reader, made into the rows of an error log (`log_rows.py`).

`reading.py` tells the forms apart by their content and reads a file or folder. Imports nothing above `boostlib.tasks`.
"""
