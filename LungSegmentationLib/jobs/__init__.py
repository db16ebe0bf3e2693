"""Background processes: what they say (events), how they stop, who holds a run, and starting, following, ending them.

Only the standard library, pydantic and psutil are imported here, so that Slicer's window can use it at no cost.
"""
