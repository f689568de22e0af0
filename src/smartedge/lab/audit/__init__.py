"""The audit: attackers that are given everything but the images and the adversarial exits, and what they find.

Begin with ``suite``, the whole audit of a run, and ``call``, what it shares with the audit of given features
(``features/``). ``settings`` says what to attack, ``stages`` and ``clock`` what is left of it, ``store`` and
``feature_cache`` keep what was done.

What attackers are given: ``evidence``, gathered by ``gathering`` and ``run_evidence``, as ``inputs``. ``undefended``
is the same network without protection. What they do: ``attributes`` plans ``attacks`` by ``attackers``: ``neural``,
``trees`` and ``posterior``. ``judge`` judges all of them by one rule, ``floors`` are the references. Others ask who
was there: ``membership``; and who is who: ``people``, of whom ``crowd`` holds the images, judged as ``pairs``, by
``identity`` and ``persons``. ``reconstruction/`` makes images.

What bounds them: ``epsilon`` from below, ``certificate/`` from above. ``in_words`` is the verdict.
"""
