"""Class addition: from a champion, hospitals' mirrors and the images that clinicians approved to a candidate that knows one class more.

Rounds are those of ``federation.round`` and the method is FedKA; what differs from an experiment is that people, not a statistic, say what
is new, and that the champion teaches from the first round. It runs as its own process (``python -m federation.class_addition
JOB/job.json``), where the mirrors are: pixels never leave the machine. This is a federation on one machine; over the network the same
rounds are the business of NVIDIA FLARE, where each hospital opens its own mirror only.
"""
