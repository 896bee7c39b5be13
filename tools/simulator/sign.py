"""Webhook signatures: Twilio's HMAC over URL and form, SendGrid's ECDSA P-256 over time and body.

The curve is written out here (Jacobian coordinates, RFC 6979 nonces) because Python's standard
library has none; keys come from the seed, so that both sides can be given theirs beforehand.
"""
import base64
import hashlib
import hmac

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)
SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def twilio_signature(token, url, params):
    """params: a list of (name, value) pairs; a name's distinct values are each appended."""
    text = url + "".join(k + v for k, v in sorted(set(params)))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def _double(p):
    x, y, z = p
    if not z:
        return p
    a, yy = 3 * (x - z * z) * (x + z * z) % P, y * y % P
    s = 4 * x * yy % P
    x3 = (a * a - 2 * s) % P
    return x3, (a * (s - x3) - 8 * yy * yy) % P, 2 * y * z % P


def _add_affine(p, q):
    x1, y1, z1 = p
    if not z1:
        return q[0], q[1], 1
    zz = z1 * z1 % P
    u, s = q[0] * zz % P, q[1] * zz * z1 % P
    h, r = (u - x1) % P, (s - y1) % P
    if not h:
        return _double(p) if not r else (1, 1, 0)
    hh = h * h % P
    hhh, v = h * hh % P, x1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - y1 * hhh) % P, z1 * h % P


def _affine(p):
    i = pow(p[2], -1, P)
    return p[0] * i * i % P, p[1] * i * i * i % P


def _powers():
    """G times 1, 2, 4, ... as affine points: a product with G is then additions alone."""
    table, p = [], (G[0], G[1], 1)
    for _ in range(256):
        table.append(_affine(p))
        p = _double((table[-1][0], table[-1][1], 1))
    return table


class MailKey:
    """SendGrid's signing key of this run."""

    def __init__(self, seed):
        self.secret = int.from_bytes(hashlib.sha256(b"mail key %r" % seed).digest(), "big") % N
        self.table = _powers()
        x, y = self._times_g(self.secret)
        point = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
        self.public = base64.b64encode(SPKI_PREFIX + point).decode()

    def _times_g(self, k):
        p = (1, 1, 0)
        for i in range(256):
            if k >> i & 1:
                p = _add_affine(p, self.table[i])
        return _affine(p)

    def _nonce(self, digest):
        secret, short = self.secret.to_bytes(32, "big"), (int.from_bytes(digest, "big") % N)
        data = secret + short.to_bytes(32, "big")
        k, v = b"\0" * 32, b"\1" * 32
        for mark in (b"\0", b"\1"):
            k = hmac.digest(k, v + mark + data, "sha256")
            v = hmac.digest(k, v, "sha256")
        while True:
            v = hmac.digest(k, v, "sha256")
            t = int.from_bytes(v, "big")
            if 0 < t < N:
                return t
            k = hmac.digest(k, v + b"\0", "sha256")
            v = hmac.digest(k, v, "sha256")

    def sign(self, data):
        """base64 of the DER signature over SHA-256 of data."""
        digest = hashlib.sha256(data).digest()
        k = self._nonce(digest)
        r = self._times_g(k)[0] % N
        s = pow(k, -1, N) * (int.from_bytes(digest, "big") + r * self.secret) % N

        def integer(n):
            b = n.to_bytes(n.bit_length() // 8 + 1, "big")
            return b"\x02" + bytes([len(b)]) + b
        body = integer(r) + integer(s)
        return base64.b64encode(b"\x30" + bytes([len(body)]) + body).decode()
