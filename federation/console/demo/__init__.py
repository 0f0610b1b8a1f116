"""The console's demo: three made hospitals on one machine into which phantom scans stream. What a user tries before anything is real."""
