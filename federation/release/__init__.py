"""Release: a candidate is compared with the champion, judged by rules, becomes champion, and goes back. Runs as a process of its own.

``findings`` and ``rules`` need neither torch nor MLflow, so that a web process can read and judge a comparison.
"""
