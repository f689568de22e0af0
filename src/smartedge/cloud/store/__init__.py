"""The store: what the cloud keeps of each edge, and copies of it elsewhere.

``feature_log`` is the log of one edge. ``marks`` say how far the run is, and ``lock`` lets one process at a time do
something in a run's folder. ``copying`` copies a store to another place (``remote``), and ``copied`` reads the copy.
``export`` writes a Parquet file.
"""
