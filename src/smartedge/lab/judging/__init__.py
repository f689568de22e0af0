"""The judgement on a run in plain words, for the audit and the report. Needs no package beyond the core's.

``verdict`` is what a judgement is made of. ``leakage`` judges what attackers read, ``guarantee`` what the noise
promises, ``caveats`` say what limits both. ``text`` writes numbers.
"""
