"""Release of models: compare a candidate with the champion, judge it, promote it, roll it back.

``findings`` and ``rules`` need neither torch nor MLflow, so that the web process can read and judge
a comparison. The rest runs in a process of its own.
"""
