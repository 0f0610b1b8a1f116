"""Small scripts that time one thing and print a ratio.

No part of the program, and nothing in them is a timed test.
"""
