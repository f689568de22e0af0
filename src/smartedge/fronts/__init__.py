"""Published fronts: the bundle that ``smartedge export`` wrote, checked, and run by ONNX Runtime. Needs no torch.

:mod:`~smartedge.fronts.bundle` opens and checks a bundle, :mod:`~smartedge.fronts.requirements` compares it with what
an edge asks for, :mod:`~smartedge.fronts.runtime` computes features and the exit's answers.
"""
