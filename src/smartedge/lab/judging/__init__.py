"""The judgement on a run in plain words, for the audit and the report. Needs no package beyond the core's."""
