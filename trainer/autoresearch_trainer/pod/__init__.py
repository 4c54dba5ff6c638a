"""A trial as a pod: three programs of one image, `gate`, `train` and `judge`, each in a container of its own.

gate  owns training data, clock and artifact; a candidate reaches it over inherited connections only
train is the pod's PID 1 beside the candidate: trusted, holds nothing worth stealing, exits 0 whatever happens
judge owns validation data, scores the artifact and writes the result
"""
