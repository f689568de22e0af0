"""Published fronts: the bundle that ``smartedge export`` wrote, checked, and run by ONNX Runtime. Needs no torch.

``bundle`` opens and checks one, ``requirements`` compares it with what an edge asks for, ``runtime`` computes features
and the exit's answers.
"""
