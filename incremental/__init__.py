"""Incremental models: a network whose head grows by classes, detection of new classes, registry."""
