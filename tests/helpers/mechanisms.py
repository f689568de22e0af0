"""One mechanism of every kind, for the suites that run over all of them."""

from __future__ import annotations

from smartedge.privacy.mechanisms import make_mechanism

MAP = (2, 3, 3)
MECHANISMS = {
    "none": make_mechanism("none", feature_shape=MAP),
    "codeword": make_mechanism("none", feature_shape=(6,), codebook=6),
    "gaussian": make_mechanism("gaussian", feature_shape=MAP, bottleneck=True, epsilon=4.0),
    "gaussian, tokens": make_mechanism("gaussian", feature_shape=(5, 4), clip=0.1, sigma=3.0),
    "laplace": make_mechanism("laplace", feature_shape=MAP, clip=2.0, epsilon=1.0),
    "laplace, element": make_mechanism("laplace", feature_shape=MAP, granularity="element", clip=0.5, epsilon=1.0),
    "randomised response": make_mechanism("randomised-response", feature_shape=(6,), codebook=6, epsilon=2.0),
    "subset selection": make_mechanism("subset-selection", feature_shape=(6,), codebook=6, epsilon=0.5, releases=3),
}
BATCH = 7
