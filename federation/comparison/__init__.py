"""Comparisons: many methods, many seeds, one table.

Reading order: ``suite`` (what is compared), ``budget`` (under equal terms), ``runner`` (run what is
missing), ``outcomes`` (read what ran), ``statistics``, ``published`` (the paper's numbers), then
the writers ``tables``, ``figures`` and ``summary``; ``mirror`` shows it all to MLflow. A run of a
comparison is an ordinary run folder; nothing here learns.
"""
