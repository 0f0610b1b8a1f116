"""Class addition: teach the champion a new class from images that clinicians approved.

The rounds are those of ``federation.round`` with the method FedKA. They differ from an experiment
in two ways: people, not a statistic, say what is new, and the champion teaches from round 0 on.

A class addition is a federation on one machine. It runs as a process of its own (``python -m
federation.class_addition JOB/job.json``) where the mirrors are, so that pixels never leave the
machine. Over the network NVIDIA FLARE runs the same rounds; there each hospital opens only its own
mirror.
"""
