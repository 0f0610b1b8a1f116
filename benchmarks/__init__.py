"""Scripts that measure speed, memory, robustness and privacy; not part of the program.

No test times anything.
"""
