"""Names of hospitals that manifests are written for.

With capitals, with marks that a label may not hold, and two as good as the same.
"""

NAMES = ("north", "South_1", "south-1", "St-Marys")
