"""Engines: where twins run (in this process or in worker processes) and where their states rest."""
