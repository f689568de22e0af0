"""The one-way link: datagrams that only ever go from the edge to the cloud.

Nothing comes back: no answer, no confirmation, no request to send again. So what the link may lose is made up for
before it is sent (:mod:`smartedge.wire.simplex.blocks`: forward error correction), every datagram is encrypted and
authenticated by itself (:mod:`smartedge.wire.simplex.seal`), the sender keeps to the rate of the link
(:mod:`smartedge.wire.simplex.sender`), and the receiver marks what is lost all the same
(:mod:`smartedge.wire.simplex.receiver`).
"""
