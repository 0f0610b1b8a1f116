"""Everything on the hospital's side: data sets, arrival plans, mirrors and image intake.

Imports no model and no federation code.
"""
